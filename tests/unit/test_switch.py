"""The one switch: exactly one file, one rename, closed whenever anything is odd."""

import os
import threading
import time

import pytest
from ansible.module_utils.greenroom.switch import Switch, SwitchError, other


@pytest.fixture
def switch(tmp_path):
    made = Switch(tmp_path / "switch")
    made.ensure()
    return made


def test_first_flip_makes_the_directory_and_one_file(tmp_path):
    switch = Switch(tmp_path / "greenroom" / "svc" / "switch")
    assert switch.read() is None
    assert switch.flip("blue") is True
    assert os.listdir(switch.directory) == ["blue"]
    assert os.stat(switch.directory).st_mode & 0o777 == 0o755
    assert switch.flip("blue") is False


def test_flip_moves_and_closing_removes(switch):
    switch.flip("blue")
    assert switch.flip("green") and switch.read() == "green" and os.listdir(switch.directory) == ["green"]
    assert switch.flip(None) and switch.read() is None and os.listdir(switch.directory) == []
    assert switch.flip(None) is False
    assert other("blue") == "green" and other("green") == "blue"


def test_both_files_are_an_error_that_names_the_folder_and_nothing_moves(switch):
    for slot in ("blue", "green"):
        (switch.directory / slot).touch()
    for act in (switch.read, lambda: switch.flip("blue"), lambda: switch.flip(None)):
        with pytest.raises(SwitchError, match=rf"{switch.directory}: both blue and green exist.*closed"):
            act()
    assert sorted(os.listdir(switch.directory)) == ["blue", "green"]


def test_unknown_slot(switch):
    with pytest.raises(SwitchError, match="no slot 'red'"):
        switch.flip("red")


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_others_may_write_is_refused(switch, mode):
    switch.directory.chmod(mode)
    with pytest.raises(SwitchError, match="lets others move the switch"):
        switch.flip("blue")


def test_a_symlink_or_file_instead_of_the_directory_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(SwitchError, match="is not a directory"):
            Switch(tmp_path / name).flip("blue")
    assert os.listdir(tmp_path / "real") == []


def test_a_directory_in_memory_is_refused():
    with pytest.raises(SwitchError, match="empty after a reboot"):
        Switch("/run/greenroom-test/switch").flip("blue")


def test_a_foreign_owner_is_refused(switch):
    if os.geteuid() != 0:
        pytest.fail("this test needs root, as the whole suite does")
    os.chown(switch.directory, 65534, 65534)
    with pytest.raises(SwitchError, match="belongs to uid 65534"):
        switch.read()


def test_a_failed_rename_says_where_users_are(switch, monkeypatch):
    switch.flip("blue")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(SwitchError, match=r"from blue to green.*No space left.*users are on blue"):
        switch.flip("green")
    monkeypatch.undo()
    assert switch.read() == "blue"


def test_a_failed_fsync_after_the_rename_says_the_truth(switch, monkeypatch):
    switch.flip("blue")

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ansible.module_utils.greenroom.switch.fsync_dir", broken)
    with pytest.raises(SwitchError, match="users are on green"):
        switch.flip("green")


def test_a_thousand_flips_never_show_both_nor_a_hole(switch):
    """The reader does what nginx does: blue, then green, then blue again. It must find one every time, and never two in one listing.

    Each flip waits until the reader has begun a new look: two whole flips inside one look's microseconds would be no look at all.
    """
    switch.flip("blue")
    stop, holes, doubles, looks = threading.Event(), [], [], [0, 0]
    blue, green = os.fspath(switch.directory / "blue"), os.fspath(switch.directory / "green")

    def look():
        while not stop.is_set():
            if not (os.path.exists(blue) or os.path.exists(green) or os.path.exists(blue)):
                holes.append(looks[0])
            looks[0] += 1

    def listing():
        while not stop.is_set():
            if {"blue", "green"} <= set(os.listdir(switch.directory)):
                doubles.append(looks[1])
            looks[1] += 1

    readers = [threading.Thread(target=look), threading.Thread(target=listing)]
    for reader in readers:
        reader.start()
    for number in range(1000):
        switch.flip("green" if number % 2 == 0 else "blue")
        seen = looks[0]
        while looks[0] < seen + 2:
            time.sleep(0)
    stop.set()
    for reader in readers:
        reader.join()
    assert looks[0] > 1000 and looks[1] > 100, "the readers hardly ran, so nothing was proved"
    assert holes == []
    assert doubles == []
