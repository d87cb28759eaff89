"""Step 12: what only shows over the whole chain of revisions."""

from __future__ import annotations

from . import state as states
from .adapters import Revision
from .ground import Ground


def check(name: str, ok: bool | None, text: str) -> dict:
    """One check of the chain; ok None is: does not apply, for the reason in `text`."""
    return {"check": name, "status": "not_applicable" if ok is None else "pass" if ok else "fail", "text": text}


def checks(ground: Ground, history: list[Revision], released: dict[str, str], full: bool) -> list[dict]:
    """One head; every release's head is still there; with `full` also: models equal the schema, and all the way down and up again."""
    heads = ground.adapter.heads()
    found = [check("one_head", len(heads) == 1, f"newest revisions: {', '.join(heads) or 'none'}")]
    names = {one.revision for one in history}
    gone = [f"{release} ({head})" for release, head in released.items() if head not in names]
    if released:
        text = (
            f"gone: {', '.join(gone)}: their databases could not be migrated" if gone else f"{len(released)} releases' revisions are there"
        )
        found.append(check("released_heads", not gone, text))
    if not full or len(heads) != 1:
        return found
    name = ground.new()
    try:
        found += up_down_up(ground, name, history, heads[0])
    finally:
        ground.drop(name)
    return found


def up_down_up(ground: Ground, name: str, history: list[Revision], head: str) -> list[dict]:
    """Base to head, models, head to base, base to head."""
    url = ground.url(name)
    with ground.connect(name) as connection:
        before = ground.state(name, connection)
        outcome = ground.adapter.up(url, head)
        if outcome.error:
            return [check("base_to_head", False, outcome.error[:1000])]
        top = ground.state(name, connection)
        differ = ground.adapter.check(url)
        models = check(
            "models", None if differ is None else not differ, "the project states no models" if differ is None else differ[:1000] or "equal"
        )
        for one in reversed(history):
            outcome = ground.adapter.down(url, one.revision)
            if outcome.error:
                return [models, check("head_to_base", False, f"{one.revision}: {outcome.error[:1000]}")]
        lines, _moved = states.schema_differences(before, ground.state(name, connection))
        way = check("head_to_base", not lines, "; ".join(lines) or "nothing is left")
        outcome = ground.adapter.up(url, head)
        if outcome.error:
            return [models, way, check("base_to_head_again", False, outcome.error[:1000])]
        lines, _moved = states.schema_differences(top, ground.state(name, connection))
        return [models, way, check("base_to_head_again", not lines, "; ".join(lines) or "the same schema")]
