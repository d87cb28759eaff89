"""Jobs of a database host: results that survive a kill, metrics that say so, evidence that believes no word, what may be forgotten."""

import json
import re

import pytest
from ansible.module_utils.greenroom.backup import archiver, job, job_evidence, job_metrics, repositories
from ansible.module_utils.greenroom.backup.errors import BackupError

DAY = 86400


@pytest.fixture
def config(tmp_path):
    (tmp_path / "jobs").mkdir()
    return {
        "schema": 1,
        "service": "example-service",
        "side": "database",
        "database": {"name": "example", "host": str(tmp_path), "port": 1, "user": "postgres", "bin_dir": None},
        "places": [{"name": "store", "type": "s3"}, {"name": "local", "type": "posix"}],
        "physical": {
            "stanza": "example-service",
            "config_file": str(tmp_path / "absent.conf"),
            "repositories": [{"key": 1, "place": "store"}, {"key": 2, "place": "local"}],
        },
        "work_dir": str(tmp_path),
        "retention": {"full": 2, "days": 7, "logical": 3},
        "limits": {"rto_s": 1, "rpo_s": 1},
        "metrics_dir": str(tmp_path),
        "time_limit_s": 60,
        "file": str(tmp_path / "backup.json"),
    }


def stored(config, name, **result):
    job.result_file(config, name).write_text(json.dumps({"job": name, "figures": {}, **result}))


def metric(text, name, **labels):
    """The value of one metric in a page, None if it is not there."""
    for line in text.splitlines():
        found = re.fullmatch(rf"greenroom_backup_{name}\{{(.*)\}} (\S+)", line)
        if found and all(f'{key}="{value}"' in found.group(1) for key, value in labels.items()):
            return float(found.group(2))
    return None


# --- configuration ---------------------------------------------------------------------------------------------------


def test_a_configuration_that_lacks_something_is_named_with_its_file(config, tmp_path):
    file = tmp_path / "backup.json"
    with pytest.raises(BackupError, match=r"backup\.json: cannot be read"):
        job.read_config(file)
    file.write_text("{")
    with pytest.raises(BackupError, match=r"backup\.json: is no JSON"):
        job.read_config(file)
    file.write_text(json.dumps({key: value for key, value in config.items() if key != "places"}))
    with pytest.raises(BackupError, match=r"backup\.json: lacks places"):
        job.read_config(file)
    file.write_text(json.dumps({**config, "schema": 2}))
    with pytest.raises(BackupError, match="schema 2"):
        job.read_config(file)
    file.write_text(json.dumps(config))
    assert job.read_config(file) == config


# --- results ---------------------------------------------------------------------------------------------------------


def logical_answer(monkeypatch, stdout, code=0, stderr=""):
    class Done:
        returncode = code

    Done.stdout, Done.stderr = stdout, stderr
    monkeypatch.setattr(job.subprocess, "run", lambda *_args, **_kwargs: Done)


GOOD = json.dumps({"id": "b1", "bytes": 10, "places": {"store": {"ok": True, "bytes": 12}, "local": {"ok": True, "bytes": 12}}})


def test_a_good_logical_backup_is_kept_with_its_time(config, monkeypatch):
    logical_answer(monkeypatch, GOOD)
    result = job.run(config, "logical", now=lambda: 1000.0)
    assert result["success"] == {"store": 1000.0, "local": 1000.0} and result["places"]["store"]["bytes"] == 12
    assert job.read_result(config, "logical") == result


@pytest.mark.parametrize(
    ("stdout", "code", "stderr"),
    [
        (GOOD, 1, "it failed"),  # a word that the status does not bear out
        ("", 0, ""),
        ("{}", 0, ""),
        (json.dumps({"id": "b1", "places": {"store": {"ok": False, "reason": "refused"}, "local": {"ok": "yes"}}}), 0, ""),
    ],
)
def test_neither_status_nor_word_alone_makes_a_backup(config, monkeypatch, stdout, code, stderr):
    stored(config, "logical", started=1, ended=2, places={}, success={"store": 5.0})
    logical_answer(monkeypatch, stdout, code, stderr)
    result = job.run(config, "logical")
    assert [one["ok"] for one in result["places"].values()] == [False, False]
    assert all(one["reason"] for one in result["places"].values())
    assert result["success"] == {"store": 5.0}, "what was good before stays known"


def test_a_place_that_got_its_backup_has_it_though_another_failed(config, monkeypatch):
    told = {"id": "b1", "places": {"store": {"ok": False, "reason": "down"}, "local": {"ok": True, "bytes": 5}}}
    logical_answer(monkeypatch, json.dumps(told), 1, "not in 1 of 2 places")
    result = job.run(config, "logical")
    assert {name: one["ok"] for name, one in result["places"].items()} == {"store": False, "local": True}
    assert result["places"]["store"]["reason"] == "down" and set(result["success"]) == {"local"}
    logical_answer(monkeypatch, json.dumps(told), -9, "killed")
    assert not any(one["ok"] for one in job.run(config, "logical")["places"].values())


def test_one_place_that_fails_keeps_the_other_from_nothing(config, monkeypatch):
    class Fake:
        places = {"store": 1, "local": 2}  # noqa: RUF012

        def __init__(self, *_given):
            self.expired = []

        def backup(self, place, _job):
            if place == "store":
                raise BackupError("the store cannot be reached")
            return {"label": "20261120F", "type": "full", "size": 100, "repo_size": 10}

        def expire(self, *_given):
            raise BackupError("expire went wrong")

    monkeypatch.setattr(job, "Repositories", Fake)
    result = job.run(config, "full")
    assert result["places"]["store"] == {"ok": False, "reason": "the store cannot be reached", "bytes": None}
    assert result["places"]["local"]["ok"] and result["places"]["local"]["retention"] == {"error": "expire went wrong"}
    assert set(result["success"]) == {"local"}


def test_the_command_ends_with_1_when_a_place_has_nothing(config, monkeypatch, capsys):
    file = config["file"]
    with open(file, "w") as stream:
        json.dump(config, stream)
    logical_answer(monkeypatch, GOOD)
    assert job.main(["run", "logical", "--config", file]) == 0
    logical_answer(monkeypatch, "", 1, "pg_dump ended with status 1")
    assert job.main(["run", "logical", "--config", file]) == 1
    assert "store: pg_dump ended with status 1" in capsys.readouterr().err
    assert job.main(["run", "full", "--config", file + ".absent"]) == 2
    assert job.main(["run", "archive", "--config", file]) == 1, "neither repositories nor server answer"


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_of_a_good_run(config):
    places = {"store": {"ok": True, "reason": None, "bytes": 7}, "local": {"ok": True, "reason": None, "bytes": 9}}
    stored(config, "full", started=100, ended=160, places=places, success={"store": 160.0, "local": 160.0})
    text = job_metrics.text(config, "full")
    assert metric(text, "last_run_success", place="store", kind="full", service="example-service") == 1
    assert metric(text, "last_run_duration_seconds") == 60 and metric(text, "last_run_timestamp_seconds") == 160
    assert metric(text, "size_bytes", place="local") == 9 and metric(text, "last_success_timestamp_seconds", place="local") == 160


@pytest.mark.parametrize(("ended_as", "ended"), [("timeout", None), ("signal", None), ("success", None), ("timeout", 160)])
def test_a_run_that_was_killed_is_a_failed_one(config, ended_as, ended):
    places = {"store": {"ok": True, "reason": None, "bytes": 7}}
    stored(config, "full", started=100, ended=ended, places=places, success={"store": 50.0})
    text = job_metrics.text(config, "full", ended_as, now=500.0)
    assert [metric(text, "last_run_success", place=place) for place in ("store", "local")] == [0, 0]
    assert metric(text, "last_success_timestamp_seconds", place="store") == 50
    assert metric(text, "last_success_timestamp_seconds", place="local") == 0
    assert metric(text, "last_run_timestamp_seconds") == 500 and metric(text, "size_bytes", place="store") is None


def test_a_job_that_never_ran_has_metrics_that_say_so(config):
    text = job_metrics.text(config, "logical", now=5.0)
    assert metric(text, "last_run_success", place="store") == 0 and metric(text, "last_success_timestamp_seconds", place="local") == 0
    assert metric(job_metrics.text(config, "archive"), "wal_archive_up") == 0


def test_metrics_of_the_archive(config):
    figures = {"last_archived_s": 10.0, "failed": 3, "archived": 8, "waiting": 2, "oldest_waiting_s": 2.0, "wal_bytes": 99, "failing": None}
    places = {"store": {"ok": False, "reason": "down", "bytes": None}, "local": {"ok": True, "reason": None, "bytes": None}}
    stored(config, "archive", started=1, ended=2, places=places, success={}, figures=figures)
    text = job_metrics.text(config, "archive")
    assert metric(text, "place_up", place="store") == 0 and metric(text, "place_up", place="local") == 1
    assert metric(text, "wal_archive_up") == 1 and metric(text, "wal_archive_failures_total") == 3
    assert metric(text, "wal_waiting_segments") == 2 and metric(text, "wal_directory_bytes") == 99
    stored(config, "archive", started=1, ended=2, places=places, success={}, figures={**figures, "failing": "it fails"})
    assert metric(job_metrics.text(config, "archive"), "wal_archive_up") == 0
    assert "# TYPE greenroom_backup_wal_archive_failures_total counter" in text


def test_the_page_is_written_whole_and_for_everybody(config, tmp_path):
    path = job_metrics.write(config, "full", "success")
    assert path == tmp_path / "greenroom_backup_example-service_full.prom" and path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.glob("*.part")] == []


# --- the archive's verdict -------------------------------------------------------------------------------------------

HEALTHY = {
    "mode": "on",
    "command": "pgbackrest archive-push %p",
    "last_failed_s": 5.0,
    "last_archived_s": 6.0,
    "waiting": 0,
    "now_s": 1000.0,
}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"mode": "off"}, "archive_mode is off"),
        ({"command": "/bin/true"}, "does not call pgBackRest"),
        ({"last_failed_s": 7.0, "waiting": 3}, "3 segments wait"),
        ({"oldest_waiting_s": 8.0, "waiting": 2}, "a segment waits for 992 s, 2 in all"),
    ],
)
def test_an_archive_that_does_not_work_says_why(keys, text):
    assert archiver.failing(HEALTHY) is None
    assert text in archiver.failing({**HEALTHY, **keys})


# --- evidence --------------------------------------------------------------------------------------------------------


def statuses(records):
    return [(one["id"], one["status"]) for one in records]


def test_a_job_that_left_nothing_new_is_red(config):
    result = {"started": 5, "ended": 6, "places": {"store": {"ok": True, "bytes": 3}}}
    for given, since in (({}, None), (result, 5), ({**result, "ended": None}, None)):
        assert statuses(job_evidence.of_result(config, "logical", given, since=since)) == [("protect.backup.run", "fail")]


def test_a_logical_backup_without_a_size_is_red(config):
    result = {"started": 5, "ended": 6, "places": {"store": {"ok": True, "bytes": 0, "id": "b"}, "local": {"ok": False, "reason": "full"}}}
    found = statuses(job_evidence.of_result(config, "logical", result, since=4))
    assert found == [("protect.backup.run", "fail"), ("protect.backup.file", "pass"), ("protect.backup.size", "fail")]
    no_place = job_evidence.of_result(config, "logical", {"started": 5, "ended": 6, "places": {}})
    assert statuses(no_place) == [("protect.backup.run", "fail")]


class Listed:
    """Repositories that list what the test says."""

    def __init__(self, backups):
        self.backups = backups

    def __call__(self, _config):
        return self

    def look(self, _place):
        return self.backups


@pytest.mark.parametrize(
    ("backups", "file", "size"),
    [
        ([{"label": "F1", "error": False, "size": 900, "repo_size": 9}], "pass", "pass"),
        ([{"label": "F1", "error": True, "size": 900, "repo_size": 9}], "fail", "pass"),
        ([{"label": "F1", "error": None, "size": 900, "repo_size": 9}], "fail", "pass"),
        ([{"label": "F1", "error": False, "size": 400, "repo_size": 9}], "pass", "fail"),
        ([], "fail", "fail"),
    ],
)
def test_a_physical_backup_is_what_the_repository_says(config, monkeypatch, backups, file, size):
    monkeypatch.setattr(job_evidence, "Repositories", Listed(backups))
    monkeypatch.setattr(job_evidence, "_size_of_files", lambda _config: 1000)
    result = {"started": 5, "ended": 6, "places": {"store": {"ok": True, "id": "F1", "bytes": 9}}}
    found = dict(statuses(job_evidence.of_result(config, "full", result)))
    assert (found["protect.backup.file"], found["protect.backup.size"]) == (file, size)


def test_timers_that_do_not_run_are_named(config):
    names = job_evidence.timers(config)
    block = "Id={}\nActiveState=active\nUnitFileState=enabled\n"
    assert {one["status"] for one in job_evidence.of_timers(config, "\n".join(block.format(name) for name in names))} == {"pass"}
    shown = "\n".join([block.format(names[0]).replace("enabled", "disabled"), *(block.format(name) for name in names[1:-1])])
    red = {one["detail"]["target"]: one["reason"] for one in job_evidence.of_timers(config, shown) if one["status"] != "pass"}
    assert set(red) == {names[0], names[-1]} and "active, disabled" in red[names[0]] and "not there" in red[names[-1]]


def test_a_server_that_does_not_answer_is_no_evidence(config):
    assert {one["status"] for one in job_evidence.of_archive(config)} == {"no_evidence"}


# --- what may be forgotten -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ages", "full", "days", "keep"),
    [
        ([1, 8, 15, 22], 2, 7, 2),  # the one of 8 days ago reaches back 7 days
        ([1, 8, 15, 22], 2, 14, 3),
        ([1, 2, 3], 1, 1, 1),
        ([0.5, 2, 3], 1, 1, 2),
        ([], 4, 14, 4),
        ([1], 4, 14, 4),
    ],
)
def test_so_many_full_backups_stay_that_every_moment_can_be_reached(ages, full, days, keep):
    now = 1000 * DAY
    backups = [{"type": "full", "error": False, "stopped": now - age * DAY} for age in ages]
    backups += [{"type": "incr", "error": False, "stopped": now}, {"type": "full", "error": True, "stopped": now}]
    assert repositories.fulls_to_keep(backups, full, days, now) == keep
