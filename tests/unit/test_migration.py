"""The migration's library without a database: URLs, masking, the unit's command line, and what each outcome says."""

from __future__ import annotations

import json
import subprocess
from urllib.parse import unquote, urlsplit

import pytest
from ansible.module_utils.greenroom import migration, migration_worker
from ansible.module_utils.greenroom.masking import masked, redact
from ansible.module_utils.greenroom.migration import Database, Job, MigrationError

PASSWORD = "p@ss:/w ord#$ü'\"%"


def database(**more: object) -> Database:
    return Database(
        **{"host": "10.0.0.5", "port": 5433, "name": "things", "user": "things_owner", "password": PASSWORD, **more}
    )


def job(**more: object) -> Job:
    return Job(
        **{
            "service": "things",
            "user": "things",
            "release": "/opt/things/releases/3-1.0",
            "database": database(),
            **more,
        }
    )


PLAN = {
    "current": ["a1"],
    "heads": ["c3"],
    "pending": [{"revision": "b2", "message": "two"}, {"revision": "c3", "message": ""}],
    "unknown": [],
}
AT_HEAD = {"current": ["c3"], "heads": ["c3"], "pending": [], "unknown": []}
APPLIED = [
    {"revision": "b2", "message": "two", "seconds": 0.1, "done": True},
    {"revision": "c3", "message": "", "seconds": 0.1, "done": True},
]


def outcome(**more: object) -> dict:
    """What the worker of a migration that succeeded answers, with changes."""
    return {
        "before": PLAN, "after": AT_HEAD, "started": APPLIED, "lock": {"waited_s": 0.0, "holder": None}, "tables": {"missing": []},
        "indexes": {"missing": [], "invalid": []}, "output": "", "error": None, **more,
    }  # fmt: skip


def answering(result: dict):
    return lambda argv, request, limit_s: (0, json.dumps(result), "")


def by_id(evidence: list[dict]) -> dict:
    assert len({one["id"] for one in evidence}) == len(evidence)
    return {one["id"]: one for one in evidence}


def test_the_url_carries_every_character_of_the_password():
    parts = urlsplit(database(ca_file="/etc/ca.crt").url())
    assert (parts.scheme, parts.username, unquote(parts.password), parts.hostname, parts.port, parts.path) == (
        "postgresql", "things_owner", PASSWORD, "10.0.0.5", 5433, "/things",
    )  # fmt: skip
    assert parts.query == "sslmode=verify-full&sslrootcert=%2Fetc%2Fca.crt"


def test_the_url_keeps_the_services_driver_and_query_but_not_its_user_or_target():
    url = database().url("postgresql+asyncpg://app:other@elsewhere:1/prod?ssl=verify-full&x=1")
    assert url.startswith("postgresql+asyncpg://things_owner:") and url.endswith(
        "@10.0.0.5:5433/things?ssl=verify-full&x=1"
    )
    assert "other" not in url and "elsewhere" not in url and "prod" not in url


def test_an_ipv6_host_is_bracketed():
    assert "@[fd00::5]:5433/" in database(host="fd00::5").url()


def test_a_url_of_another_kind_of_database_is_refused_without_showing_it():
    with pytest.raises(MigrationError) as caught:
        database().url("mysql://app:other@h/d")
    assert "'mysql'" in str(caught.value) and "other" not in str(caught.value)


def test_no_secret_is_in_the_command_line_or_the_repr():
    one = job(service_url="postgresql://app:service-secret@h/d", env_files=("/etc/things/credentials.env",))
    shown = " ".join(one.argv("migrate")) + repr(one)
    for form in (PASSWORD, "p%40ss", "service-secret"):
        assert form not in shown
    assert "--unit=greenroom-migration-things.service" in one.argv("migrate")
    assert "--property=User=things" in one.argv("migrate") and "--property=NoNewPrivileges=yes" in one.argv("migrate")
    assert "--property=EnvironmentFile=/etc/things/credentials.env" in one.argv("migrate")
    assert "--property=RuntimeMaxSec=690" in one.argv("migrate")  # 60 s for the lock, 600 s for the tool, 30 s of grace


def test_systemd_expands_nothing_in_the_bootstrap():
    assert "$" not in migration.BOOTSTRAP and "%" not in migration.BOOTSTRAP


def test_the_request_limits_every_session():
    request = job(lock_timeout_s=7, statement_timeout_s=90).request("migrate")
    assert request["settings"] == {"lock_timeout": "7s", "statement_timeout": "90s"}
    assert request["tool"]["env"]["PGOPTIONS"] == "-c lock_timeout=7s -c statement_timeout=90s"
    assert request["application_name"] == "greenroom-migration"
    compile(request["worker"], "worker", "exec")
    compile(request["tool"]["source"], "tool", "exec")
    assert -(2**63) <= request["lock_key"] < 2**63


def test_every_form_of_a_secret_is_masked():
    url = database().url()
    text = f"could not connect to {url}; {PASSWORD}; {PASSWORD!r}; {json.dumps(PASSWORD)}"
    hidden = masked(text, (PASSWORD, ""))
    assert PASSWORD not in hidden and "p%40ss" not in hidden and "p@ss" not in hidden and hidden.count("***") == 4
    assert masked("nothing", ("",)) == "nothing"
    doubled = masked(f"[SQL: -- {database().url().replace('%', '%%')} {PASSWORD.replace('%', '%%%%')}]", (PASSWORD,))
    assert "ord" not in doubled and "%40" not in doubled
    assert redact("of another://one:secret@host/x") == "of another://one:***@host/x"


def test_the_result_is_masked_before_anybody_reads_it():
    raw = outcome(
        error={"kind": "OperationalError", "message": f"cannot reach {database().url()}"},
        after=PLAN,
        started=[],
        output=f"password={PASSWORD}",
    )
    with pytest.raises(MigrationError) as caught:
        migration.migrated(job(), run=answering(raw))
    assert "***" in str(caught.value)
    for form in (PASSWORD, "p%40ss", "p@ss"):
        assert form not in str(caught.value) and form not in json.dumps(caught.value.result, ensure_ascii=False)


def test_a_plan_names_the_pending_revisions():
    plan, evidence = migration.planned(job(), run=answering(outcome(after=None, started=[])))
    assert plan == PLAN
    (made,) = evidence
    assert (made["id"], made["status"], made["observed"]) == (
        "db.migration.state_before",
        "pass",
        "a1 -> c3, 2 pending: b2 (two), c3",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"before": {**PLAN, "unknown": ["ff9"]}}, ["ff9", "does not contain", "c3"]),
        ({"before": {**PLAN, "heads": ["c3", "d4"]}}, ["c3, d4", "Merge"]),
    ],
)
@pytest.mark.parametrize("operation", [migration.planned, migration.migrated])
def test_a_plan_that_cannot_be_carried_out_is_red(operation, change, words):
    with pytest.raises(MigrationError) as caught:
        operation(job(), run=answering(outcome(started=[], after=None, tables=None, indexes=None, **change)))
    assert all(word in str(caught.value) for word in words)
    records = by_id(caught.value.result["evidence"])
    assert records["db.migration.state_before"]["status"] == "fail"
    if operation is migration.migrated:
        assert "Nothing was migrated" in str(caught.value) and caught.value.result["changed"] is False
        assert records["db.migration.applied"]["status"] == records["db.migration.head"]["status"] == "fail"


def test_a_migration_that_succeeded():
    result, evidence = migration.migrated(job(tables=("things",), indexes=("things_pkey",)), run=answering(outcome()))
    assert result["changed"] is True and [one["revision"] for one in result["applied"]] == ["b2", "c3"]
    assert {id: one["status"] for id, one in by_id(evidence).items()} == dict.fromkeys(
        ["db.migration.state_before", "db.migration.applied", "db.migration.head", "db.tables", "db.indexes"], "pass"
    )
    assert by_id(evidence)["db.migration.applied"]["observed"] == "applied 2: b2 (two), c3"


def test_nothing_pending_changes_nothing():
    result, evidence = migration.migrated(job(), run=answering(outcome(before=AT_HEAD, after=None, started=[])))
    assert result["changed"] is False
    assert by_id(evidence)["db.migration.applied"]["observed"] == "nothing was pending"
    assert by_id(evidence)["db.tables"]["status"] == "not_applicable"


def test_a_failed_revision_is_named_with_the_databases_state():
    started = [APPLIED[0], {**APPLIED[1], "done": False}]
    failed = outcome(
        started=started,
        after=PLAN,
        error={"kind": "ProgrammingError", "message": "no such column"},
        tables=None,
        indexes=None,
    )
    with pytest.raises(MigrationError) as caught:
        migration.migrated(job(tables=("things",)), run=answering(failed))
    assert "revision c3 failed: no such column [ProgrammingError]. The database is unchanged, at a1" in str(
        caught.value
    )
    assert caught.value.result["changed"] is False
    records = by_id(caught.value.result["evidence"])
    assert records["db.migration.applied"]["status"] == "fail" and records["db.migration.head"]["status"] == "fail"
    assert records["db.tables"]["status"] == "error" and "not looked at" in records["db.tables"]["reason"]


def test_a_failure_that_kept_earlier_revisions_says_so():
    half = {**PLAN, "current": ["b2"], "pending": [PLAN["pending"][1]]}
    failed = outcome(
        started=[APPLIED[0], {**APPLIED[1], "done": False}],
        after=half,
        error={"kind": "X", "message": "y"},
        tables=None,
        indexes=None,
    )
    with pytest.raises(MigrationError) as caught:
        migration.migrated(job(), run=answering(failed))
    assert "now at b2, it was at a1" in str(caught.value) and caught.value.result["changed"] is True


def test_success_without_reaching_head_is_red():
    with pytest.raises(MigrationError) as caught:
        migration.migrated(job(), run=answering(outcome(after={**AT_HEAD, "current": ["b2"]})))
    assert "the database is at b2, the release's newest revision is c3" in str(caught.value)


@pytest.mark.parametrize(
    ("found", "id", "words"),
    [
        ({"tables": {"missing": ["things"]}}, "db.tables", "tables missing: things"),
        ({"indexes": {"missing": ["things_pkey"], "invalid": []}}, "db.indexes", "indexes missing: things_pkey"),
        ({"indexes": {"missing": [], "invalid": ["things_pkey"]}}, "db.indexes", "indexes invalid: things_pkey"),
    ],
)
def test_what_the_contract_declares_and_is_not_there_is_red(found, id, words):
    with pytest.raises(MigrationError) as caught:
        migration.migrated(job(tables=("things", "more"), indexes=("things_pkey",)), run=answering(outcome(**found)))
    assert words in str(caught.value)
    records = by_id(caught.value.result["evidence"])
    assert records[id]["status"] == "fail" and records["db.migration.head"]["status"] == "pass"


def test_a_lock_that_is_held_names_its_holder():
    holder = {
        "pid": 4711,
        "application_name": "greenroom-migration-lock run-1",
        "user": "o",
        "address": "10.0.0.9",
        "since": "2026-11-20 09:00:00",
    }
    held = outcome(
        before=None,
        after=None,
        started=[],
        tables=None,
        indexes=None,
        lock={"holder": holder},
        error={"kind": "lock", "message": "not free"},
    )
    with pytest.raises(MigrationError) as caught:
        migration.migrated(job(), run=answering(held))
    assert "held by pid 4711, greenroom-migration-lock run-1, role o" in str(
        caught.value
    ) and "Nothing was migrated" in str(caught.value)
    assert by_id(caught.value.result["evidence"])["db.migration.state_before"]["status"] == "error"


def test_a_unit_without_a_result_says_where_to_look():
    with pytest.raises(MigrationError) as caught:
        migration.planned(job(), run=lambda *_: (1, "", f"Unit exists already {PASSWORD}"))
    assert "status 1 and no result: Unit exists already ***" in str(
        caught.value
    ) and "journalctl -u greenroom-migration-plan-things-" in str(caught.value)
    (made,) = caught.value.result["evidence"]
    assert (made["id"], made["status"]) == ("db.migration.state_before", "error") and PASSWORD not in made["reason"]


def test_a_unit_that_does_not_end_and_a_host_without_systemd():
    def late(argv: list, request: str, limit_s: float):
        raise subprocess.TimeoutExpired(argv, limit_s)

    with pytest.raises(MigrationError, match="has not ended"):
        migration.planned(job(), run=late)

    def absent(argv: list, request: str, limit_s: float):
        raise FileNotFoundError(2, "No such file or directory", "systemd-run")

    with pytest.raises(MigrationError, match="systemd-run: No such file"):
        migration.planned(job(), run=absent)


def test_a_missing_interpreter_is_the_tools_error():
    request = {
        "tool": {"python": "/nonexistent/python", "source": "", "config": "", "cwd": "/", "env": {}},
        "settings": {},
        "application_name": "x",
    }
    with pytest.raises(migration_worker.WorkerError) as caught:
        migration_worker.run_tool({**request, "url": "", "url_key": "U", "time_limit_s": 5}, "plan")
    assert caught.value.kind == "tool" and "/nonexistent/python" in str(caught.value)
