"""Files that survive a crash: old bytes or new ones, and any edit is noticed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.durable import DurableError, read_sealed, sealed, write_atomic, write_sealed

LIBRARY = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


def test_sealed_files_round_trip_and_any_edit_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    written = write_sealed(path, {"a": 1, "b": "ü\n"})
    assert read_sealed(path, "") == written and sealed(written)
    raw = path.read_bytes()
    for position in range(len(raw) - 1):
        path.write_bytes(raw[:position])
        with pytest.raises(DurableError, match=r"x\.json.*ask the other hosts"):
            read_sealed(path, "ask the other hosts")
    path.write_bytes(raw.replace(b'"a": 1', b'"a": 2'))
    with pytest.raises(DurableError, match="checksum"):
        read_sealed(path, "")
    path.unlink()
    assert read_sealed(path, "") is None


def test_kill_between_temporary_file_and_rename_keeps_the_old_content(tmp_path):
    """A real process killed with SIGKILL at the worst moment, then a normal write that cleans up after it."""
    path = tmp_path / "state.json"
    write_atomic(path, b"old")
    code = f"""
        import ansible.module_utils, os, signal
        ansible.module_utils.__path__.append({str(LIBRARY)!r})
        from ansible.module_utils.greenroom.durable import write_atomic
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write_atomic({str(path)!r}, b"new")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".state.json.*.part"))) == 1
    write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_file_has_its_mode_from_the_beginning_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "rules"
    for content in (b"one", b"two"):
        write_atomic(path, content, 0o600)
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o600 and os.listdir(tmp_path) == ["rules"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomic(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new" * 1000)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["state.json"]
