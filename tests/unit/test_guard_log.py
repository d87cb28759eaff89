"""The reader of the gateway's log: rotation as logrotate and nginx do it, truncation, cut lines, restart; and the window of raw samples."""

import json
import os

import pytest
from ansible.module_utils.greenroom import guard_log
from ansible.module_utils.greenroom.guard_log import LogReader, Request, Window


def line(number=0, slot="green", status=200, seconds=0.01):
    return json.dumps({"time": "x", "slot": slot, "status": status, "request_s": seconds, "path": f"/{number}"}) + "\n"


def append(path, *lines):
    with open(path, "a") as stream:
        stream.write("".join(lines))


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "access.log"
    path.write_text(line())
    return path


@pytest.fixture
def reader(log):
    made = LogReader(log)
    assert made.read() == [], "what lies in the log already is past"
    yield made
    made.close()


def test_new_lines_are_read_once(log, reader):
    append(log, line(status=502, seconds=1.5), line(slot=""))
    assert reader.read() == [Request("green", 502, 1.5), Request("", 200, 0.01)]
    assert reader.read() == []
    assert Request("green", 502, 1.5).failed and not Request("green", 499, 9.0).failed and not Request("green", 404, 0.1).failed


def test_a_line_that_is_not_whole_waits_for_its_end(log, reader):
    whole = line(seconds=0.25)
    append(log, whole[:20])
    assert reader.read() == []
    append(log, whole[20:])
    assert reader.read() == [Request("green", 200, 0.25)]


def test_a_line_that_is_none_of_ours_is_counted_and_passed_over(log, reader):
    append(log, "nonsense\n", "[]\n", '{"slot": "green"}\n', line())
    assert len(reader.read()) == 1 and reader.unreadable == 3


def test_rotation_loses_nothing_and_reads_nothing_twice(log, reader):
    append(log, line())
    old = log.with_name("access.log.1")
    log.rename(old)
    append(old, line())  # nginx writes on into the old file until it is told to reopen
    assert len(reader.read()) == 2
    append(old, line())
    append(log, line())
    assert len(reader.read()) == 2
    append(old, line())  # the last lines of a worker that was slow to reopen
    append(log, line())
    assert len(reader.read()) == 2
    assert reader.read() == reader.read() == []
    assert reader.position == {"inode": log.stat().st_ino, "offset": log.stat().st_size}


def test_truncation_begins_anew(log, reader):
    append(log, line(), line(), line())
    assert len(reader.read()) == 3
    os.truncate(log, 0)
    assert reader.read() == []
    append(log, line())
    assert len(reader.read()) == 1


def test_a_restart_goes_on_where_it_was(log, reader):
    append(log, line())
    reader.read()
    position = reader.position
    append(log, line(), line())
    again = LogReader(log, position)
    assert len(again.read()) == 2 and again.read() == []
    again.close()


def test_a_restart_after_a_rotation_reads_the_rest_of_the_old_file_first(log, reader):
    position = reader.position
    append(log, line(seconds=0.1))
    log.rename(log.with_name("access.log.1"))
    append(log, line(seconds=0.2))
    again = LogReader(log, position)
    assert [request.seconds for request in again.read()] == [0.1, 0.2]
    again.close()


def test_an_old_file_that_is_gone_costs_its_lines_and_no_more(log, reader):
    position = reader.position
    log.rename(log.with_name("access.log.2.gz"))
    append(log, line())
    again = LogReader(log, position)
    assert len(again.read()) == 1
    again.close()


def test_an_absent_log_is_an_error_and_not_silence(tmp_path):
    reader = LogReader(tmp_path / "access.log")
    with pytest.raises(FileNotFoundError):
        reader.read()
    (tmp_path / "access.log").write_text(line())
    reader.read()
    append(tmp_path / "access.log", line())
    assert len(reader.read()) == 1
    reader.close()


def test_a_long_backlog_is_read_in_portions(log, reader, monkeypatch):
    monkeypatch.setattr(guard_log, "PER_READ", 10 * len(line()))
    append(log, *[line() for _ in range(25)])
    portions = []
    while found := reader.read():
        portions.append(len(found))
    assert sum(portions) == 25 and len(portions) == 3


def test_a_window_forgets_by_the_clock_it_is_given():
    window = Window(60)
    window.add(0, [Request("green", 500, 1.0)] * 5)
    window.add(30, [Request("green", 200, 0.5)] * 15)
    assert (window.count, window.failed) == (20, 5)
    window.add(59.9, [])
    assert window.count == 20
    window.add(60, [])
    assert (window.count, window.failed, window.p95_s()) == (15, 0, 0.5)
    window.clear()
    assert (window.count, window.p95_s()) == (0, None)


def test_the_percentile_is_one_of_the_samples():
    window = Window(60)
    window.add(0, [Request("green", 200, seconds) for seconds in [0.125] * 95 + [4.0] * 5])
    assert window.p95_s() == 0.125
    window.add(1, [Request("green", 200, 4.0)])
    assert window.p95_s() == 4.0
