"""The contract's section `backup`: each kind of bad input is seen red, with its path; what is left out is not backed up, and says so."""

import copy
import secrets

import pytest
from ansible.module_utils.greenroom import catalogue, contract
from ansible.module_utils.greenroom.contract_rules import needed_groups, needed_secrets

BASE = {
    "name": "example-service",
    "package": "example_service",
    "source": {"git": "https://git.example.internal/example.git", "ref": "v1.2.0"},
    "processes": [{"name": "web", "kind": "web", "command": "uvicorn example:app --port ${PORT}"}],
    "ports": {"blue": 8101, "green": 8102},
    "dependencies": {"database": {"name": "example_staging", "owner": "example_owner", "user": "example_app"}},
    "health": {},
    "gateway": {"server_names": ["example.staging.internal"]},
    "backup": {"store": {"endpoint": "https://backup.example.internal:9000", "bucket": "greenroom-backups"}},
}
GROUPS = {"gateway": ["g1"], "app": ["a1"], "database": ["d1"], "restore": ["m1"]}
ADDRESSES = {"g1": "10.9.0.1", "a1": "10.9.0.2", "d1": "10.9.0.4", "m1": "10.9.0.5"}
IDENTITY = "AGE-SECRET-KEY-1" + "".join(secrets.choice("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L") for _ in range(58))
VAULT = {
    "vault_service_env": {},
    "vault_postgresql_owner_password": "vB3nK8wQ2sLx7TzR5mYcH4Gd",
    "vault_postgresql_app_password": "pD6hJ9fM4aVe8XuN2kWqS7Zt",
    "vault_db_backup_store_key_id": "Qm4TzB7kW2xJ9sLd",
    "vault_db_backup_store_secret": "k7Yd3Vq9RnB2xWm5LsT8zHc4",
    "vault_db_backup_restore_key_id": "Hx8RfC3nV6yK2pGs",
    "vault_db_backup_restore_secret": "w2Zk8Jp4XcN7vQm3TbR9sLf6",
    "vault_db_backup_cipher_passphrase": "Gt5Wn8Lx2Rk7Vq3Zc9Ym4Bs6Jd1Pf0HhTs",
    "vault_db_backup_identity": IDENTITY,
}


def with_backup(**keys):
    made = copy.deepcopy(BASE)
    made["backup"].update(keys)
    return made


def problems(service, vault=VAULT):
    return [(one["path"], one["text"]) for one in contract.validate(service, groups=GROUPS, addresses=ADDRESSES, secrets=vault, markers={})]


def test_a_sound_section_has_no_problems_and_gets_its_defaults():
    assert problems(BASE) == []
    full = contract.normalized(BASE)["backup"]
    assert full["limits"] == {"rto_s": 14400, "rpo_s": 3600} and full["rpo_target_s"] == 60 and full["archive_timeout_s"] == 60
    assert full["retention"] == {"full": 4, "days": 14, "logical": 14}
    assert full["schedules"]["full"] == "Sun 01:00" and full["store"]["uri_style"] == "path" and full["store"]["ca"] is None


STORE = BASE["backup"]["store"]
BAD = [
    ({"store": {}}, "service.backup.store.endpoint", "is missing"),
    ({"store": {**STORE, "endpoint": "http://10.9.0.5:9000"}}, "service.backup.store.endpoint", "malformed"),
    ({"store": {**STORE, "endpoint": "https://key:secret@10.9.0.5"}}, "service.backup.store.endpoint", "malformed"),
    ({"store": {**STORE, "endpoint": "https://10.9.0.5:9000"}}, "service.backup.store.endpoint", "is an address"),
    ({"store": {**STORE, "endpoint": "https://D1"}}, "service.backup.store.endpoint", "is the database host d1"),
    ({"store": {**STORE, "endpoint": "https://localhost"}}, "service.backup.store.endpoint", "the database host itself"),
    ({"store": {**STORE, "bucket": "Bucket_1"}}, "service.backup.store.bucket", "malformed"),
    ({"store": {**STORE, "prefix": "a/../b"}}, "service.backup.store.prefix", "malformed"),
    ({"store": {**STORE, "ca": "ca.crt"}}, "service.backup.store.ca", "malformed"),
    ({"local_path": "backups"}, "service.backup.local_path", "malformed"),
    ({"local_path": "/var/lib/postgresql/backups"}, "service.backup.local_path", "lies in /var/lib/postgresql"),
    ({"local_path": "/tmp/backups"}, "service.backup.local_path", "lies in /tmp"),
    ({"schedules": {"full": "soon"}}, "service.backup.schedules.full", "no time of systemd's calendar"),
    ({"schedules": {"full": "03:00\n[Service]"}}, "service.backup.schedules.full", "malformed"),
    ({"retention": {"full": 1}}, "service.backup.retention.full", "at least 2"),
    ({"rpo_target_s": 30}, "service.backup.rpo_target_s", "may wait 60 s"),
    ({"limits": {"rpo_s": 30}}, "service.backup.limits.rpo_s", "below rpo_target_s"),
    ({"retain": {}}, "service.backup.retain", "is not a key"),
]


@pytest.mark.parametrize(("keys", "path", "text"), BAD)
def test_what_is_wrong_is_named(keys, path, text):
    found = dict(problems(with_backup(**keys)))
    assert text in found[path]


def test_a_provided_database_and_none_are_refused():
    provided = copy.deepcopy(BASE)
    provided["dependencies"]["database"] |= {"mode": "provided", "host": "db.example.internal"}
    assert "whoever provides it" in dict(problems(provided))["service.backup"]
    without = copy.deepcopy(BASE)
    without["dependencies"] = {}
    assert "no database to back up" in dict(problems(without))["service.backup"]


def test_a_host_to_restore_on_is_needed():
    found = contract.validate(BASE, groups={**GROUPS, "restore": []})
    assert [one["path"] for one in found] == ["groups.restore"] and "mode: provided" not in found[0]["text"]
    assert "restore" not in needed_groups(contract.normalized({key: value for key, value in BASE.items() if key != "backup"}))


@pytest.mark.parametrize("name", [name for name in VAULT if name.startswith("vault_db_backup_")])
def test_each_key_is_needed_and_no_sample_is_taken(name):
    assert name in needed_secrets(contract.normalized(BASE))
    assert "is missing" in dict(problems(BASE, {key: value for key, value in VAULT.items() if key != name}))[name]
    found = problems(BASE, {**VAULT, name: "change-me-this-is-a-sample-of-a-secret"})
    assert any(path == name and "placeholder or a sample" in text for path, text in found)
    short = problems(BASE, {**VAULT, name: "aB3"})
    assert any(path == name for path, text in short) and "aB3" not in str(short)


def test_keys_that_do_not_do_their_work_are_refused():
    same = {**VAULT, "vault_db_backup_restore_key_id": VAULT["vault_db_backup_store_key_id"]}
    assert "also the key that writes" in dict(problems(BASE, same))["vault_db_backup_restore_key_id"]
    public = {**VAULT, "vault_db_backup_identity": "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"}
    assert "no private key of age" in dict(problems(BASE, public))["vault_db_backup_identity"]
    weak = {**VAULT, "vault_db_backup_cipher_passphrase": "Nb3nK8wQ2sLx7TzR5mYcH4Ge"}
    assert "shorter than 32" in dict(problems(BASE, weak))["vault_db_backup_cipher_passphrase"]


def test_without_the_section_the_phase_protect_does_not_apply():
    ids = ["protect.backup.run", "protect.rto", "prep.db.user"]
    without = {key: value for key, value in BASE.items() if key != "backup"}
    assert catalogue.not_applicable(contract.normalized(BASE), ids) == {}
    found = catalogue.not_applicable(contract.normalized(without), ids)
    assert set(found) == {"protect.backup.run", "protect.rto"} and "no section `backup`" in found["protect.rto"]
