"""Manifests: complete or refused; the newest is the one that says so; retention keeps what was proved."""

import datetime
import json

import pytest
from ansible.module_utils.greenroom.backup import manifest, retention
from ansible.module_utils.greenroom.backup.configuration import Configuration, load
from ansible.module_utils.greenroom.backup.errors import BackupError

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc)  # noqa: UP017


def document(number=1, hours=1.0, **changes):
    moment = (NOW - datetime.timedelta(hours=hours)).isoformat()
    source = {"system_identifier": "7", "database": "d", "database_oid": 5, "server_version": "15.1", "server_version_num": 150001}
    source |= {
        "encoding": "UTF8",
        "collate": "C",
        "ctype": "C",
        "superuser": "postgres",
        "database_bytes": 9,
        "lsn": "0/1",
        "extensions": {},
    }
    found = {"format": 1, "kind": "logical", "id": f"svc-20261120T100000Z-{number:06x}", "service": "svc", "status": "complete"}
    found |= {"started": moment, "finished": moment, "snapshot_time": moment, "source": source, "seal": {"recipients": ["k"]}}
    found["contents"] = {"tables": 1, "rows": 1, "fingerprint": "f", "dump_bytes": 3}
    found["parts"] = [{"name": "data.tar.zst.age", "size": 3, "sha256": "a", "plain_size": 2, "plain_sha256": "b"}]
    return {**found, **changes}


class Place:
    """A place in memory."""

    name = "here"

    def __init__(self, *documents):
        self.files = {}
        for one in documents:
            self.files[f"{one['id']}/{manifest.MANIFEST}"] = manifest.dump(one)
            self.files[f"{one['id']}/{manifest.SIGNATURE}"] = b"good"

    def keys(self):
        return sorted(self.files)

    def read(self, key):
        if key not in self.files:
            raise FileNotFoundError(key)
        return self.files[key]


def trust(_content, signed):
    if signed != b"good":
        raise BackupError("the signature does not fit")


def test_a_complete_manifest_is_read_back_as_it_was():
    assert manifest.parse(manifest.dump(document())) == document()
    assert manifest.age_s(document(hours=2), NOW) == 7200


@pytest.mark.parametrize("key", list(manifest._NEEDED))
def test_each_missing_value_is_named(key):
    broken = document()
    section, _, name = key.rpartition(".")
    del (broken[section] if section else broken)[name]
    with pytest.raises(BackupError, match=key.replace(".", r"\.")):
        manifest.parse(manifest.dump(broken))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no JSON"),
        (b"[1]", "no JSON object"),
        (manifest.dump(document())[:300], "no JSON"),
        (manifest.dump(document(status="partial")), "'partial'"),
        (manifest.dump(document(parts=[])), "0 parts"),
        (manifest.dump(document(parts=[{"name": "x"}])), r"parts\[0\]\.size"),
        (manifest.dump(document(format=2)), "format 2"),
        (manifest.dump(document(id="../x")), "is none"),
        (manifest.dump(document(snapshot_time="2026-11-20T10:00:00")), "no time zone"),
        (manifest.dump(document(snapshot_time="yesterday")), "no time"),
    ],
)
def test_what_is_no_manifest_is_refused(content, words):
    with pytest.raises(BackupError, match=words):
        manifest.parse(content)


def test_the_newest_is_chosen_by_its_content_and_not_by_its_name():
    place = Place(document(9, hours=30), document(1, hours=1), document(5, hours=5))
    assert manifest.select(place, trust)[0]["id"] == document(1)["id"]
    assert manifest.select(place, trust, document(9)["id"])[0]["id"] == document(9)["id"]
    with pytest.raises(BackupError, match="has no complete backup svc-none"):
        manifest.select(place, trust, "svc-none")


def test_without_manifest_no_backup_and_a_bad_one_is_told():
    place = Place(document(1), document(2))
    place.files[f"{document(2)['id']}/{manifest.SIGNATURE}"] = b"bad"
    del place.files[f"{document(1)['id']}/{manifest.MANIFEST}"]
    with pytest.raises(BackupError, match=r"no backup that can be used: here: svc-.*000002: the signature"):
        manifest.select(place, trust)
    with pytest.raises(BackupError, match="Take one"):
        manifest.select(Place(), trust)
    place = Place(document(1), document(2))
    del place.files[f"{document(2)['id']}/{manifest.SIGNATURE}"]
    assert manifest.select(place, trust)[1] == [f"here: {document(2)['id']}: the manifest has no signature"]


def test_names_that_are_no_ids_are_no_backups():
    keys = ["latest.json", "x/manifest.json", "svc-20261120T100000Z-00000g/manifest.json", "svc-20261120T100000Z-abcdef/a/manifest.json"]
    assert manifest.ids([*keys, "svc-20261120T100000Z-abcdef/data.tar.zst.age"]) == []
    made = manifest.new_id("svc", NOW)
    assert manifest.ids([f"{made}/manifest.json"]) == [made]


@pytest.mark.parametrize(
    ("keep", "verified", "gone"),
    [
        (2, [], []),  # nothing was proved: nothing goes
        (2, [1], [3, 4, 5]),
        (2, [3], [4, 5]),  # what is newer than the proved one stays too
        (1, [5], []),
        (9, [1], []),
        (1, [1, 4], [2, 3, 4, 5]),
        (2, ["another"], []),
    ],
)
def test_retention_never_takes_the_newest_proved_one(keep, verified, gone):
    documents = [document(number, hours=number) for number in (3, 1, 5, 2, 4)]  # 1 is the newest
    found, note = retention.plan(documents, keep, [document(one)["id"] if isinstance(one, int) else one for one in verified])
    assert found == [document(number)["id"] for number in sorted(gone, reverse=True)] and note


def test_retention_keeps_at_least_one():
    with pytest.raises(ValueError, match="not 0"):
        retention.plan([], 0, [])


def test_the_configuration_names_file_and_key(tmp_path):
    path = tmp_path / "backup.json"
    with pytest.raises(BackupError, match="cannot be read"):
        load(path)
    for text, words in (("{", "no JSON"), ("[]", "no JSON object"), ('{"schema": 9}', "schema is 9")):
        path.write_text(text)
        with pytest.raises(BackupError, match=words):
            load(path)
    path.write_text(json.dumps({"schema": 1, "seal": {"identity_file": None}}))
    config = load(path)
    assert config.get("seal.identity_file", "x") == "x" and config.get("a.b") is None
    with pytest.raises(BackupError, match=rf"{path}: database\.name is missing"):
        config["database.name"]
    assert isinstance(config, Configuration)
