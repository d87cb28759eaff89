"""pgBackRest's words without a pgBackRest: messages, causes, which backups count, which may go."""

from __future__ import annotations

import pytest
from ansible.module_utils.greenroom.backup import expiry
from ansible.module_utils.greenroom.backup.errors import BackupError, BusyError, NoSpaceError
from ansible.module_utils.greenroom.backup.pgbackrest import PROGRAM, VERIFIED, PgBackRest, Ran, cleaned, judge, messages


def backup(label: str, stopped: int = 1000, error: bool | None = False, **more) -> dict:
    kind = {"F": "full", "D": "diff", "I": "incr"}[label[-1]]
    return {"label": label, "type": kind, "stopped": stopped, "error": error, "system_identifier": "77", "annotations": {}, **more}


def failure(rc: int, stderr: str) -> BackupError:
    return PgBackRest("main", "/etc/pgbackrest/pgbackrest.conf", user=None).failure("backup", Ran(rc, "", stderr, 1.0))


def test_a_command_is_a_list_and_no_shell_sees_it():
    command = PgBackRest("main", "/tmp/a b.conf", user=None, options=("--pg1-path=/x",)).command("backup", "--repo=2")
    assert command == [PROGRAM, "--config=/tmp/a b.conf", "--stanza=main", "--pg1-path=/x", "--repo=2", "backup"]


def test_messages_keep_hints_and_leave_warnings_out():
    text = (
        "WARN: option 'x' is not set\n      HINT: set it\nERROR: [082]: WAL segment was not archived\n       before the 60000ms timeout\n"
        "       HINT: check the archive_command\nP00   INFO: end\n"
    )
    (said,) = messages(text)
    assert said == "[082]: WAL segment was not archived before the 60000ms timeout HINT: check the archive_command"


@pytest.mark.parametrize(
    ("rc", "stderr", "words"),
    [
        (37, "ERROR: [037]: restore command requires option: pg1-path", "lacks an option"),
        (40, "ERROR: [040]: unable to restore to path '/x' because it contains files", "never goes over data"),
        (38, "ERROR: [038]: unable to restore while PostgreSQL is running", "Restore into a new folder"),
        (55, "ERROR: [055]: unable to open missing file", "stanza-create"),
        (56, "ERROR: [056]: unable to find primary cluster", "PostgreSQL cannot be reached"),
        (82, "ERROR: [082]: WAL segment was not archived", "archive_command fails, or it lies"),
        (87, "ERROR: [087]: archive_mode must be enabled", "archive_mode=on"),
        (49, "ERROR: [049]: unable to connect to 'store:443'", "store cannot be reached"),
        (95, "ERROR: [095]: unable to verify certificate presented by 'store'", "certificate is not trusted"),
        (95, "ERROR: [095]: cipher header invalid", "passphrase"),
        (39, "ERROR: [039]: HTTP request failed with 403 (Forbidden)", "refuses the key"),
        (-9, "", "signal 9"),
        (99, "", "no message, exit status 99"),
        (51, "ERROR: [051]: PostgreSQL version 15, system-id 7 do not match stanza", "another cluster"),
    ],
)
def test_each_error_has_its_cause_and_what_to_do(rc, stderr, words):
    error = failure(rc, stderr)
    assert words in str(error)
    assert error.result["rc"] == rc


def test_a_lock_and_a_full_disk_are_errors_of_their_own():
    assert isinstance(failure(50, "ERROR: [050]: unable to acquire lock on file"), BusyError)
    assert isinstance(failure(64, "ERROR: [064]: unable to write '/x': [28] No space left on device"), NoSpaceError)


def test_headers_and_garbage_are_no_part_of_a_message():
    text = "failed with 403: *** Path/Query ***: GET / *** Request Headers ***: authorization: AWS4 secretish *** Response Content ***: why"
    assert "secretish" not in cleaned(text)
    assert cleaned(text).endswith("why")
    assert cleaned("at \x1b[31m\x00ÿ end") == "at [31m end"


def test_only_a_backup_without_the_error_flag_counts():
    now = 2000.0
    newest, problems = judge([backup("1F"), backup("2F", 1500, True)], 1, system_identifier="77", max_age_s=None, now=now)
    assert newest["label"] == "1F"
    assert "2F holds corrupt pages" in problems[0]
    newest, problems = judge([backup("1F", error=None)], 1, system_identifier=None, max_age_s=None, now=now)
    assert newest is None
    assert "no backup that could be restored" in problems[0]


@pytest.mark.parametrize(
    ("now", "identifier", "words"),
    [(5000.0, "77", "4000 s old"), (100.0, "77", "in the future"), (1001.0, "78", "another cluster"), (1001.0, "77", None)],
)
def test_age_clock_and_cluster_are_judged(now, identifier, words):
    _, problems = judge([backup("1F")], 2, system_identifier=identifier, max_age_s=3600, now=now)
    assert (words is None and problems == []) or words in problems[0]
    assert all("repository 2" in text for text in problems)


def verified(label, stopped):
    return backup(label, stopped, annotations={VERIFIED: "2026-11-20T10:00:00Z"})


@pytest.mark.parametrize(
    ("backups", "keep", "gone"),
    [
        ([backup("1F", 1), backup("2F", 2), backup("3F", 3)], 1, []),  # none was verified: nothing goes
        ([verified("1F", 1), backup("2F", 2), backup("3F", 3)], 1, ["2F"]),
        ([verified("1F", 1), verified("2F", 2), backup("3F", 3)], 1, ["1F"]),
        ([backup("1F", 1), backup("1F_2I", 2, annotations={VERIFIED: "x"}), backup("3F", 3), backup("4F", 4)], 1, ["3F"]),
        ([backup("1F", 1), verified("2F", 2), backup("3F", 3), backup("4F", 4)], 2, ["1F"]),
        ([verified("1F", 1), backup("2F", 2, True), backup("3F", 3)], 2, ["2F"]),  # a corrupt one counts for nothing
        ([backup("1F", 1, True, annotations={VERIFIED: "x"}), backup("2F", 2)], 1, []),  # corrupt: verified or not
        ([verified("1F", 1), backup("2F", 2), backup("3F", 3, True)], 1, []),  # the newest stays to be looked at
    ],
)
def test_what_may_go(backups, keep, gone):
    labels, why = expiry.to_expire(backups, keep)
    assert labels == gone
    assert why


def test_at_least_one_backup_stays():
    with pytest.raises(ValueError, match="at least one"):
        expiry.to_expire([], 0)
