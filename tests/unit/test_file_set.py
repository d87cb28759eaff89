"""Files, links and folders made in one go."""

import os
import stat

import pytest
from ansible.module_utils.greenroom import env_file
from ansible.module_utils.greenroom.file_set import FileSetError, ensure_all


@pytest.fixture
def me(tmp_path):
    import grp
    import pwd

    return {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def entries(folder, me):
    return [
        {"path": f"{folder}/a/b", "directory": True, **me},
        {"path": f"{folder}/a/b/text", "content": "one\n", "mode": "0640", **me},
        {"path": f"{folder}/a/b/env", "env": {"KEY": " $x'\"# ü"}, "header": "made", "mode": "0600", **me},
        {"path": f"{folder}/a/b/link", "link": "text"},
    ]


def test_made_once_then_unchanged(tmp_path, me):
    wanted = entries(tmp_path, me)
    assert [path for path, _before, _after in ensure_all(wanted, dry=True)] == [one["path"] for one in wanted]
    assert not (tmp_path / "a").exists()
    assert len(ensure_all(wanted)) == 4
    assert stat.S_IMODE((tmp_path / "a/b/env").stat().st_mode) == 0o600
    assert env_file.load(str(tmp_path / "a/b/env"))[0][0].value == " $x'\"# ü"
    assert os.readlink(tmp_path / "a/b/link") == "text"
    assert ensure_all(wanted) == []


def test_only_what_differs_is_written(tmp_path, me):
    wanted = entries(tmp_path, me)
    ensure_all(wanted)
    (tmp_path / "a/b/text").chmod(0o666)
    wanted[2]["env"] = {"KEY": "other"}
    wanted[3]["link"] = "env"
    assert [path.rsplit("/", 1)[1] for path, _before, _after in ensure_all(wanted)] == ["text", "env", "link"]
    assert stat.S_IMODE((tmp_path / "a/b/text").stat().st_mode) == 0o640 and os.readlink(tmp_path / "a/b/link") == "env"


def test_nothing_is_written_when_one_entry_is_wrong(tmp_path, me):
    wanted = [*entries(tmp_path, me), {"path": f"{tmp_path}/bad", "env": {"KEY": "secret\nvalue"}, **me}]
    with pytest.raises(FileSetError, match="KEY") as caught:
        ensure_all(wanted)
    assert "secret" not in str(caught.value) and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "entry", [{"path": "x", "content": ""}, {"path": "/x"}, {"path": "/x", "content": "", "link": "y"}]
)
def test_an_entry_that_is_not_clear_is_refused(entry):
    with pytest.raises(FileSetError, match="exactly one"):
        ensure_all([entry])


def test_what_is_something_else_is_left_alone(tmp_path, me):
    (tmp_path / "thing").mkdir()
    for entry in ({"content": "x", **me}, {"link": "y"}):
        with pytest.raises(FileSetError, match="is no"):
            ensure_all([{"path": f"{tmp_path}/thing", **entry}])
