"""Names of WAL segments, the path over timelines, targets of a recovery and what the server's log says about them."""

from __future__ import annotations

import pytest
from ansible.module_utils.greenroom.backup import wal
from ansible.module_utils.greenroom.backup.errors import BackupError, NoSpaceError
from ansible.module_utils.greenroom.backup.point_in_time import Target, choose, missed

SIZE = 16 << 20


def names(timeline, *numbers):
    return [wal.segment(timeline, number, SIZE) for number in numbers]


@pytest.mark.parametrize(
    ("number", "size", "name"),
    [
        (0, SIZE, "000000010000000000000000"),
        (255, SIZE, "0000000100000000000000FF"),
        (256, SIZE, "000000010000000100000000"),
        (3, 1 << 30, "000000010000000000000003"),
        (4, 1 << 30, "000000010000000100000000"),
    ],
)
def test_names_and_numbers_go_both_ways(number, size, name):
    assert wal.segment(1, number, size) == name
    assert wal.parse(name, size) == (1, number)


@pytest.mark.parametrize("name", ["", "00000001000000000000000", "00000001000000000000000G", "000000010000000000000001.partial", None])
def test_other_texts_are_no_segments(name):
    with pytest.raises(ValueError, match="no name of a WAL segment"):
        wal.parse(name, SIZE)


def test_lsns():
    assert wal.lsn("1/A") == (1 << 32) + 10
    assert wal.lsn("0/16B3748") < wal.lsn("1/0")


def test_one_timeline_is_a_range():
    first, last = names(1, 254, 257)
    assert wal.expected(first, last, SIZE, {}) == names(1, 254, 255, 256, 257)
    assert wal.expected(first, first, SIZE, {}) == [first]


def test_the_segment_of_a_switch_is_expected_on_the_next_timeline():
    (first,), (last,) = names(1, 2), names(3, 7)
    switches = {1: 4 * SIZE + 100, 2: 6 * SIZE + 5}
    assert wal.expected(first, last, SIZE, switches) == names(1, 2, 3) + names(2, 4, 5) + names(3, 6, 7)
    assert wal.expected(names(2, 5)[0], last, SIZE, switches) == names(2, 5) + names(3, 6, 7)


def test_another_branch_is_no_path():
    with pytest.raises(ValueError, match="no ancestor"):
        wal.expected(names(2, 5)[0], names(3, 7)[0], SIZE, {1: 4 * SIZE})
    with pytest.raises(ValueError, match="does not come after"):
        wal.expected(names(1, 7)[0], names(1, 5)[0], SIZE, {})


def test_ranges_are_short():
    assert wal.ranges(names(1, 3, 7, 8, 9), SIZE) == f"{names(1, 3)[0]}, {names(1, 7)[0]} to {names(1, 9)[0]} (3)"
    assert wal.ranges(names(1, *range(0, 40, 2)), SIZE).endswith("and 15 more ranges")


def state(**more):
    return {"waiting": 3, "last_archived_s": 5.0, "last_failed_s": None, "archive_timeout_s": 30, **more}


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        ({}, True), ({"last_archived_s": 89.0}, True), ({"last_archived_s": 91.0}, False), ({"last_archived_s": None}, False),
        ({"waiting": 0}, False), ({"last_failed_s": 1.0}, False), ({"last_failed_s": 6.0}, True),
    ],
)  # fmt: skip
def test_an_archiver_that_works_off_its_queue_is_no_fault(change, fine):
    assert wal.catching_up(state(**change), 60) is fine


def test_names_of_points_are_new_each_time_and_fit():
    one, other = wal.point_name("before rollback of Ünïcode " * 4), wal.point_name("x")
    assert wal.POINT.fullmatch(one)
    assert wal.POINT.fullmatch(other)
    assert wal.point_name("x") != other


@pytest.mark.parametrize(
    "target",
    [
        Target("name", "a'b"), Target("name", ""), Target("name", "x" * 64), Target("lsn", "12"), Target("lsn", "0/ZZ"),
        Target("time", "2026-11-20 09:30:00"), Target("time", "yesterday"), Target("latest", ""), Target("immediate", "x"),
    ],
)  # fmt: skip
def test_a_target_that_would_be_misread_is_refused(target):
    with pytest.raises(BackupError, match="recovery target"):
        target.checked()


@pytest.mark.parametrize("text", ["2026-11-20T09:30:00Z", "2026-11-20 09:30:00+00", "2026-11-20T10:30:00.5+01:00", "2026-11-20 09:30 UTC"])
def test_times_with_a_zone_are_one_moment(text):
    assert 1795167000 <= Target("time", text).checked().epoch() <= 1795167001


def backup(label, lsn_stop, stopped, error=False):
    return {"label": label, "lsn_stop": lsn_stop, "stopped": stopped, "error": error}


def test_the_newest_backup_before_the_target_is_chosen():
    backups = [backup("1F", "0/2000000", 100), backup("2F", "0/4000000", 200), backup("3F", "0/3000000", 300, True)]
    assert choose(backups, Target("lsn", "0/3FFFFFF"))["label"] == "1F"
    assert choose(backups, Target("name", "x", "0/4000001"))["label"] == "2F"
    assert choose(backups, Target("name", "x"))["label"] == "2F"
    assert choose(backups, Target("time", "1970-01-01T00:02:30Z"))["label"] == "1F"
    assert choose(backups, Target("immediate"), "1F")["label"] == "1F"
    for label, words in (("3F", "corrupt pages"), ("9F", "no backup 9F")):
        with pytest.raises(BackupError, match=words):
            choose(backups, Target("immediate"), label)
    with pytest.raises(BackupError, match="cannot be reached"):
        choose(backups, Target("lsn", "0/3000000"), "2F")


def test_the_servers_log_becomes_a_cause():
    ended = 'LOG:  restored log file "000000010000000000000004" from archive\n'
    ended += "FATAL:  recovery ended before configured recovery target was reached"
    error = missed(Target("name", "p"), ended, RuntimeError("gone"))
    assert "last segment 000000010000000000000004" in str(error)
    assert "parameter settings" in str(missed(Target("immediate"), "x FATAL:  recovery aborted: parameter settings\n", RuntimeError("x")))
    assert "WAL that the backup itself needs" in str(
        missed(Target("immediate"), "FATAL:  could not locate required checkpoint record", None)
    )
    assert "Do not use this copy" in str(missed(Target("name", "p"), "LOG:  archive recovery complete", None))
    assert isinstance(missed(Target("immediate"), "", NoSpaceError("full")), NoSpaceError)
