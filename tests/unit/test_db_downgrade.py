"""Which revisions a way down undoes, as the manifest chains them; what it does not know is never promised."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.greenroom import db_downgrade, db_routes, durable
from ansible.module_utils.greenroom.rehearsal.errors import RehearsalError

MEASURED = {"down_seconds": 0.1}


def entry(revision, *parents, verdict="LOSSLESS", **more):
    return {"revision": revision, "parents": list(parents), "verdict": verdict, "flags": [], "side_copy": [], "recoverable": None,
            "measured": MEASURED, **more}  # fmt: skip


CHAIN = {"revisions": [entry("a"), entry("b", "a"), entry("c", "b"), entry("m", "c", "x"), entry("x", "b")]}


@pytest.mark.parametrize(
    ("current", "target", "undone"),
    [
        (["c"], "b", ["c"]),
        (["c"], "a", ["c", "b"]),
        (["c"], "base", ["c", "b", "a"]),
        (["m"], "b", ["m", "c", "x"]),
        (["b"], "b", []),
        (["c"], "x", ["c", "no way from them to x"]),
        (["z"], "a", ["z", "no way from them to a"]),
    ],
)
def test_what_is_undone(current, target, undone):
    assert db_routes.between(CHAIN, current, target) == undone
    known = db_routes.from_manifest(CHAIN, undone)
    assert (known["verdict"] == "UNPROVEN") == any(one not in "abcmx" for one in undone)


def test_nothing_to_undo_needs_no_manifest_and_everything_else_does(tmp_path):
    assert db_downgrade.facts(None, ["b"], "b")["revisions"] == []
    assert db_downgrade.facts(None, [], "base")["old_app_works"]
    for path in (None, str(tmp_path / "none.json")):
        with pytest.raises(RehearsalError, match="was not rehearsed"):
            db_downgrade.facts(path, ["c"], "b")
    file = tmp_path / "migration.json"
    body = {"format": 1, **CHAIN}
    file.write_text(json.dumps({**body, "digest": durable.digest(body)}))
    assert db_downgrade.facts(str(file), ["c"], "b")["verdict"] == "LOSSLESS"
    file.write_text(json.dumps({**body, "format": 1, "digest": "0" * 64}))
    with pytest.raises(RehearsalError, match="was changed after it was written"):
        db_downgrade.facts(str(file), ["c"], "b")
