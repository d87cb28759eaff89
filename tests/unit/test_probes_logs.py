"""Probes of what processes say and run with: logs, environments, commands; green on what is right, red on each real fault."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import env_file, health_check


def measure(secrets=None, **probe):
    (record,) = health_check.run(health_check.plan([{"id": "test.id", **probe}], secrets), secrets)
    return record


# --- log -------------------------------------------------------------------------------------------------------------


def json_lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "app.log"

    def write(text):
        path.write_text(text)
        return str(path)

    return write


def line(level="info", event="ok", when="2026-11-20T09:00:00Z", **more):
    return {"timestamp": when, "level": level, "event": event, **more}


def test_log_in_json_that_is_clean(log):
    record = measure(type="log", path=log(json_lines(line(), line("warning"))), format="json", fields=["timestamp", "event"])
    assert record["status"] == "pass", record
    assert record["detail"]["lines"] == 2


REPORT = """\
09:00:01 [error] <0.1.0> supervisor: channel
09:00:01 [error] <0.1.0> user: {user}
09:00:01 [error] <0.1.0> reason: noproc
09:00:02 [info] <0.2.0> accepting
"""


def test_log_lines_of_one_event_are_allowed_together(log):
    asked = {"type": "log", "event": r"\S+ \[\w+\] <[\d.]+>", "allow": ["user: scratch"]}
    record = measure(path=log(REPORT.format(user="scratch")), **asked)
    assert (record["status"], record["detail"]["allowed"]) == ("pass", 3), record
    assert measure(path=log(REPORT.format(user="service")), **asked)["detail"]["errors"] == 3
    other = REPORT.format(user="scratch") + "09:00:03 [error] <0.3.0> reason: noproc\n"
    assert measure(path=log(other), **asked)["detail"]["first_errors"].startswith("line 5"), "the next event stands for itself"


@pytest.mark.parametrize(
    ("text", "change", "status", "told"),
    [
        (json_lines(line(), line("error", "boom")), {}, "fail", "the first is line 2: boom"),
        (json_lines(line("CRITICAL", "boom")), {}, "fail", "line 1: boom"),
        (json_lines(line(), line(), "Traceback (most recent call last):"), {}, "fail", "line 3: "),
        (json_lines(line(), '["a list"]'), {}, "fail", "line 2: "),
        (json_lines(line(), line(event="")), {"fields": ["event"]}, "fail", "line 2: has no event"),
        (json_lines(line("warning")), {"level_min": "WARNING"}, "fail", "WARNING or worse"),
        ("", {}, "no_evidence", "holds no line"),
        (json_lines(line("error", when="2026-11-20T08:00:00Z")), {"since": "2026-11-20T08:30:00Z"}, "no_evidence", "holds no line"),
        (json_lines(line("error", when="2026-11-20T10:00:00+01:00")), {"since": "2026-11-20T08:30:00Z"}, "fail", "line 1"),
        (json_lines(line(level=50)), {}, "fail", "line 1"),
    ],
)
def test_log_in_json_is_red_on(log, text, change, status, told):
    record = measure(type="log", path=log(text), format="json", **change)
    assert record["status"] == status
    assert told in record["reason"]


def test_log_allowed_errors_are_counted_and_accepted(log):
    path = log(json_lines(line("error", "cache miss storm"), line("error", "other")))
    assert measure(type="log", path=path, format="json", allow=["cache miss"])["detail"]["errors"] == 1
    record = measure(type="log", path=path, format="json", allow=["cache miss", "other"])
    assert (record["status"], record["detail"]["allowed"]) == ("pass", 2)
    assert measure(type="log", path=path, format="json", errors_max=2)["status"] == "pass"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20 09:00:00.1 UTC [7] ERROR:  relation does not exist\n",
        "error: lower case\n",
        "Traceback (most recent call last):\n",
        "2026/11/20 09:00:00 [crit] 1#1: no space\n",
        "ok\nPANIC: out of memory\n",
    ],
)
def test_log_in_text_is_red_on(log, text):
    assert measure(type="log", path=log(text))["status"] == "fail"


def test_log_in_text_from_a_moment_and_words_that_are_none(log):
    text = "2026-11-20T08:00:00Z ERROR old\n  its second line\n2026-11-20T09:00:00Z INFO no_errors in errorless file\nmore of it\n"
    record = measure(type="log", path=log(text), since="2026-11-20T08:30:00Z")
    assert (record["status"], record["detail"]["lines"]) == ("pass", 2)
    assert measure(type="log", path=log(text), since="2026-11-20T07:30:00Z")["status"] == "fail"


def test_log_reads_on_from_its_cursor_and_notices_rotation(log, tmp_path):
    path = log(json_lines(line("error", "old")))
    first = measure(type="log", path=path, format="json")
    with open(path, "a") as file:
        file.write(json_lines(line(event="new")))
    second = measure(type="log", path=path, format="json", cursor=first["detail"]["cursor"])
    assert (second["status"], second["detail"]["lines"]) == ("pass", 1)
    os.rename(path, tmp_path / "app.log.1")
    log(json_lines(line("error", "in the new file")))
    third = measure(type="log", path=path, format="json", cursor=second["detail"]["cursor"])
    assert (third["status"], third["detail"]["rotated"]) == ("fail", True)


def test_log_shows_no_secret_and_finds_one(log):
    secrets = {"token": "abc123-very-secret"}
    path = log(json_lines(line("error", "refused password=hunter2hunter2 for abc123-very-secret", key="x")))
    record = measure(secrets, type="log", path=path, format="json", absent_secrets=["token"])
    assert record["status"] == "fail"
    assert "line 1: holds the secret token" in record["reason"]
    assert "abc123-very-secret" not in json.dumps(record)
    assert "hunter2hunter2" not in json.dumps(record)


def test_log_that_is_not_there_is_no_evidence(tmp_path):
    assert measure(type="log", path=str(tmp_path / "none"))["status"] == "no_evidence"


# --- environ ---------------------------------------------------------------------------------------------------------

VALUES = {"A": "plain", "B": 'it\'s "quoted" $HOME #x', "C": "Grüße 飞书", "TOKEN": "env-s3cret-9911"}


@pytest.fixture
def process(tmp_path):
    started = []

    def start(values):
        started.append(subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"], **values}))
        for _ in range(100):  # until it has become `sleep`
            if Path(f"/proc/{started[-1].pid}/comm").read_text().strip() == "sleep":
                break
            time.sleep(0.01)
        return started[-1].pid

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_environ_equals_its_files_byte_for_byte(tmp_path, process):
    first, second = tmp_path / "1.env", tmp_path / "2.env"
    first.write_text(env_file.render({**VALUES, "A": "overridden"}))
    second.write_text(env_file.render({"A": "plain"}))
    files = [str(first), str(second)]
    record = measure(type="environ", pid=process(VALUES), env_files=files, exact=True)
    assert record["status"] == "pass", record
    record = measure(
        type="environ", pid=process({**VALUES, "B": "it's", "TOKEN": "env-s3cret-0000", "EXTRA": "1"}), env_files=files, exact=True
    )
    assert record["status"] == "fail"
    assert "another value: B, TOKEN" in record["reason"]
    assert "in no file: EXTRA" in record["reason"]
    assert "s3cret" not in json.dumps(record)
    gone = {key: value for key, value in VALUES.items() if key != "C"}
    assert "missing: C" in measure(type="environ", pid=process(gone), env_files=files)["reason"]


def test_environ_is_red_on_bad_files_and_gone_processes(tmp_path, process):
    path = tmp_path / "1.env"
    path.write_text("A='open\n")
    assert "1.env:1:A" in measure(type="environ", pid=process({}), env_files=[str(path)])["reason"]
    path.write_text("# nothing\n")
    assert measure(type="environ", pid=process({}), env_files=[str(path)])["status"] == "no_evidence"
    assert "cannot be read" in measure(type="environ", pid=process({}), env_files=[str(tmp_path / "none")])["reason"]
    path.write_text("A=1\n")
    done = subprocess.Popen(["true"])
    done.wait()
    assert measure(type="environ", pid=done.pid, env_files=[str(path)])["status"] == "fail"


# --- command ---------------------------------------------------------------------------------------------------------


def test_command_status_json_and_pattern():
    show = [sys.executable, "-c", 'print(\'{"ok": true, "n": 3, "data": {"id": 7}}\')']
    assert measure(type="command", argv=show, json={"ok": True, "data.id": 7, "n": {"ge": 3}})["status"] == "pass"
    assert measure(type="command", argv=["false"], status=1)["status"] == "pass"
    record = measure(type="command", argv=["sh", "-c", "echo git version 2.39.5"], stdout_matches=r"git version \S+", show_match=True)
    assert "git version 2.39.5" in record["observed"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"argv": ["false"]}, "exit status 1, not 0"),
        ({"argv": ["sh", "-c", "echo it broke >&2; exit 3"]}, "exit status 3, not 0 (it broke)"),
        ({"argv": ["echo", '{"ok": false}'], "json": {"ok": True}}, "ok is False"),
        ({"argv": ["echo", '{"ok": "true"}'], "json": {"ok": True}}, "ok is true, not = True"),
        ({"argv": ["echo", "ok"], "json": {"ok": True}}, "not JSON"),
        ({"argv": ["echo", "unready"], "stdout_matches": "^ready"}, "does not match"),
        ({"argv": ["sleep", "20"], "timeout_s": 0.3}, "did not end within 0.3 s"),
    ],
)
def test_command_is_red_on(change, told):
    record = measure(type="command", **change)
    assert record["status"] == "fail"
    assert told in record["reason"]


def test_command_that_is_not_there_is_an_error():
    record = measure(type="command", argv=["/nowhere/tool"], within_s=20)
    assert record["status"] == "error"
    assert "there is no /nowhere/tool" in record["reason"]
    assert record["duration_ms"] < 5000  # no retries for what cannot become better


def test_command_gets_its_secret_on_stdin_and_environment_and_tells_none():
    secrets = {"app": "stdin-s3cret-value"}
    code = "import sys, os; v = sys.stdin.read(); assert v == os.environ['X'] and len(v) == 18; print(v, file=sys.stderr); sys.exit(5)"
    record = measure(secrets, type="command", argv=[sys.executable, "-c", code], stdin_key="app", secret_env={"X": "app"})
    assert "exit status 5" in record["reason"]
    assert "stdin-s3cret-value" not in json.dumps(record)


def test_command_runs_as_another_user_or_says_that_there_is_none():
    assert measure(type="command", argv=["id"], user="no_such_user_here")["status"] == "error"
    me = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    user = "nobody" if os.geteuid() == 0 else me
    assert measure(type="command", argv=["id", "-un"], user=user, stdout_matches=f"^{user}$")["status"] == "pass"
