"""Old releases go, a needed one never."""

import os

import pytest
from ansible.module_utils.greenroom.prune import PruneError, prune


@pytest.fixture
def host(tmp_path):
    releases = tmp_path / "releases"
    for number in range(1, 13):
        (releases / f"{number}-1.{number}.0").mkdir(parents=True)
        (releases / f"{number}-1.{number}.0" / "release.json").write_text("{}")
    (tmp_path / "slots").mkdir()
    return tmp_path


def link(host, slot, number):
    (host / "slots" / slot).symlink_to(host / "releases" / f"{number}-1.{number}.0")


def test_the_newest_and_everything_needed_stay(host):
    link(host, "blue", 1)
    link(host, "green", 11)
    (host / "releases" / "notes").mkdir()
    done = prune(host / "releases", host / "slots", 3, [2, 4], dry=True)
    assert len(list((host / "releases").iterdir())) == 13
    assert prune(host / "releases", host / "slots", 3, [2, 4]) == done
    assert done["kept"] == ["1-1.1.0", "2-1.2.0", "4-1.4.0", "10-1.10.0", "11-1.11.0", "12-1.12.0"]
    assert done["unknown"] == ["notes"]
    assert sorted(os.listdir(host / "releases")) == sorted([*done["kept"], "notes"])
    assert prune(host / "releases", host / "slots", 3, [2, 4])["changed"] is False


def test_order_is_by_number_never_by_time(host):
    for number in range(1, 13):
        os.utime(host / "releases" / f"{number}-1.{number}.0", (10**9 - number, 10**9 - number))
    assert prune(host / "releases", host / "slots", 2)["kept"] == ["11-1.11.0", "12-1.12.0"]


def test_unfinished_folders_go_unless_in_progress_and_do_not_count(host):
    for number in (11, 12):
        (host / "releases" / f"{number}-1.{number}.0" / "release.json").unlink()
    done = prune(host / "releases", host / "slots", 2, [12])
    assert done["kept"] == ["9-1.9.0", "10-1.10.0", "12-1.12.0"]


@pytest.mark.parametrize("how", ["dangling", "outside", "directory"])
def test_a_slot_that_is_not_understood_keeps_everything(host, how):
    if how == "directory":
        (host / "slots" / "blue").mkdir()
    else:
        (host / "slots" / "blue").symlink_to("/nonexistent" if how == "dangling" else "/tmp")
    with pytest.raises(PruneError, match="nothing was removed"):
        prune(host / "releases", host / "slots", 1)
    assert len(list((host / "releases").iterdir())) == 12


def test_what_a_kill_left_is_removed_by_the_next_call_and_keep_is_at_least_one(host):
    (host / "releases" / ".removing-0-x").mkdir()
    prune(host / "releases", host / "slots", 12)
    assert not (host / "releases" / ".removing-0-x").exists()
    with pytest.raises(PruneError, match="at least 1"):
        prune(host / "releases", host / "slots", 0)
    assert prune(host / "absent", host / "slots", 1)["changed"] is False
