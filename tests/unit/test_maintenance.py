"""Maintenance mode: a file with an end. On, off, status, overdue, forgotten, made by hand, on a disk that refuses; with the real tool."""

import json
import os
import time

import pytest
from ansible.module_utils.greenroom import cli
from ansible.module_utils.greenroom.maintenance import LONGEST_S, Maintenance, MaintenanceError, age, describe, seconds_of, seconds_until
from ansible.module_utils.greenroom.releases import Releases


@pytest.fixture
def mode(tmp_path):
    return Maintenance(tmp_path / "maintenance")


def test_it_says_who_why_and_how_long(mode):
    assert mode.read() is None and describe(None).startswith("off")
    mode.on("database swap", "anna@gate", 600)
    said = mode.read()
    assert said["reason"] == "database swap" and said["who"] == "anna@gate" and not said["overdue"]
    assert 595 <= said["left_s"] <= 600 and said["age_s"] < 5
    assert "anna@gate: database swap" in describe(said)
    assert oct(mode.path.stat().st_mode & 0o777) == "0o644" and os.listdir(mode.directory) == ["on"]
    assert mode.off() and not mode.off()
    assert mode.read() is None


def test_a_second_call_moves_the_end_and_keeps_the_beginning(mode):
    mode.on("first", "anna", 60)
    begun = mode.read()["since_epoch"]
    mode.on("second", "ben", 7200)
    said = mode.read()
    assert said["since_epoch"] == begun and said["reason"] == "second" and said["left_s"] > 7000


def test_it_ends_by_itself_when_its_time_is_over(mode):
    mode.on("short", "anna", 60)
    assert mode.expire() is None and mode.path.exists()
    mode.on("short", "anna", 0)
    assert mode.read()["overdue"] and "time is over" in describe(mode.read())
    assert mode.expire()["reason"] == "short"
    assert not mode.path.exists() and mode.expire() is None


def test_a_clock_that_was_set_back_keeps_the_door_closed_no_longer_than_meant(mode, monkeypatch):
    mode.on("swap", "anna", 600)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    assert mode.read()["left_s"] == 600


@pytest.mark.parametrize("content", ["", "not json", '{"reason": "edited", "checksum": "x"}'])
def test_a_file_made_by_hand_closes_the_door_and_does_not_stay_for_ever(mode, content):
    mode.directory.mkdir()
    mode.path.write_text(content)
    said = mode.read()
    assert said["who"] == "unknown" and not said["overdue"]
    os.utime(mode.path, (time.time() - 7200,) * 2)
    assert mode.expire() is not None and not mode.path.exists()


def test_a_folder_that_cannot_be_written_is_named_with_what_users_see(tmp_path):
    (tmp_path / "maintenance").write_text("in the way")
    with pytest.raises(MaintenanceError, match="users see the service"):
        Maintenance(tmp_path / "maintenance").on("x", "anna", 60)


def test_spans_and_ends():
    assert [seconds_of(text) for text in ("90s", "30min", "30m", "2h", "1d")] == [90, 1800, 1800, 7200, 86400]
    for text in ("", "0s", "5", "-1h", "8d", "1w", "99999999h"):
        with pytest.raises(ValueError, match="no time"):
            seconds_of(text)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    assert 595 <= seconds_until(stamp) <= 600
    for text in ("2020-01-01T00:00Z", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + LONGEST_S + 99))):
        with pytest.raises(ValueError, match="not within"):
            seconds_until(text)
    with pytest.raises(ValueError, match="time zone"):
        seconds_until(stamp.removesuffix("Z"))
    assert [age(seconds) for seconds in (40, 125, 7505)] == ["40 s", "2 min", "2 h 5 min"]


@pytest.fixture
def gateway(tmp_path):
    """A gateway's folders as the tool finds them."""
    (tmp_path / "var/lib/greenroom/svc").mkdir(parents=True)
    (tmp_path / "etc/greenroom/svc").mkdir(parents=True)
    return tmp_path


def tool(root, *words):
    return cli.main(["--root", str(root), "maintenance", *words])


def test_the_tool_closes_and_opens_the_door_and_the_ledger_knows(gateway, capsys):
    assert tool(gateway, "on", "--for", "30min", "--reason", "database swap") == 0
    assert (gateway / "etc/greenroom/svc/maintenance/on").exists()
    assert "ends by itself in" in capsys.readouterr().out
    assert tool(gateway, "status", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["on"] and said["reason"] == "database swap" and "@" in said["who"]
    assert tool(gateway, "off", "--reason", "swapped") == 0
    assert tool(gateway, "off") == 0
    entries = Releases(gateway / "var/lib/greenroom/svc", "svc", gateway / "etc/greenroom/svc/switch").history()
    assert [(entry["action"], entry["why"]) for entry in entries] == [("maintenance_on", "database swap"), ("maintenance_off", "swapped")]


def test_the_tool_works_while_a_run_holds_the_lease(gateway):
    releases = Releases(gateway / "var/lib/greenroom/svc", "svc", gateway / "etc/greenroom/svc/switch")
    held = releases.lease.acquire(owner="run@control", run_id="run-1")
    assert tool(gateway, "on", "--reason", "now") == 0
    held.give_back()


@pytest.mark.parametrize(
    "words",
    [["on"], ["on", "--reason", " "], ["on", "--for", "soon", "--reason", "x"], ["on", "--until", "2020-01-01T00:00Z", "--reason", "x"]],
)
def test_the_tool_refuses_what_has_no_reason_or_no_end(gateway, capsys, words):
    assert tool(gateway, *words) == 3
    assert "greenroom: " in capsys.readouterr().err
    assert not (gateway / "etc/greenroom/svc/maintenance/on").exists()
