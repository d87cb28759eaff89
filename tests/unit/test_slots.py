"""Slot links on an app host: nothing but a finished release, and nothing made by hand is replaced unasked."""

import os

import pytest
from ansible.module_utils.greenroom.slots import SlotError, link_slot, read_links, release_number


@pytest.fixture
def host(tmp_path):
    for name in ("1-1.0.0", "2-1.1.0"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "release.json").write_text("{}")
    return tmp_path


def test_a_slot_is_linked_with_one_rename_and_again_changes_nothing(host):
    releases, slots = host / "releases", host / "slots"
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases, dry=True) is True and not slots.exists()
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases) is True
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases) is False
    assert link_slot(slots, "blue", releases / "2-1.1.0", releases) is True
    assert read_links(slots, releases) == ({"blue": "2-1.1.0", "green": None}, [])
    assert os.listdir(slots) == ["blue"]


def test_what_is_no_finished_release_is_not_linked(host):
    releases, slots = host / "releases", host / "slots"
    (releases / "3-1.2.0").mkdir()
    (host / "elsewhere" / "4-1.3.0").mkdir(parents=True)
    (host / "elsewhere" / "4-1.3.0" / "release.json").write_text("{}")
    (releases / "latest").mkdir()
    (releases / "5-1.5.0").symlink_to(host / "elsewhere" / "4-1.3.0")
    for target, reason in (
        (releases / "3-1.2.0", "never finished"),
        (host / "elsewhere" / "4-1.3.0", "no release folder"),
        (releases / "latest", "no release folder"),
        (releases / "5-1.5.0", "no release folder"),
        (releases / "1-1.0.0" / "..", "no release folder"),
        (releases / "9-9.9.9", "never finished"),
    ):
        with pytest.raises(SlotError, match=reason):
            link_slot(slots, "blue", target, releases)
    assert not os.path.lexists(slots / "blue")


def test_a_directory_instead_of_a_link_is_never_touched(host):
    releases, slots = host / "releases", host / "slots"
    (slots / "blue").mkdir(parents=True)
    (slots / "blue" / "precious").write_text("x")
    for adopt in (False, True):
        with pytest.raises(SlotError, match=rf"{slots}/blue: is a directory or file"):
            link_slot(slots, "blue", releases / "1-1.0.0", releases, adopt=adopt)
    assert (slots / "blue" / "precious").read_text() == "x"
    assert read_links(slots, releases)[1]


@pytest.mark.parametrize("target", ["gone", "outside"])
def test_a_dangling_or_foreign_link_needs_adopt(host, target):
    releases, slots = host / "releases", host / "slots"
    (host / "outside").mkdir()
    slots.mkdir()
    (slots / "blue").symlink_to(host / target)
    with pytest.raises(SlotError, match="changed it by hand"):
        link_slot(slots, "blue", releases / "1-1.0.0", releases)
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases, adopt=True) is True


def test_release_names():
    assert release_number("12-1.4.0+gabc") == 12
    for name in ("1.4.0", "0-1", "01-1", "-1", "1-", "1-..", "1-a b", "1-1\n"):
        assert release_number(name) is None
