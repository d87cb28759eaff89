"""What runs have proven, by release and configuration, so that a run of later phases may build on them. Standard library only."""

from __future__ import annotations

from .releases import Releases
from .state import StateError


def prove(releases: Releases, *, run_id: str, phases: list[str], identity: dict, fencing: int | None = None) -> tuple[dict, bool]:
    """Record that these phases were proven for a release and its configuration; (state, changed).

    identity: {version, commit, lock_sha256, config_digest}, all of them. Raises StateError for a missing one.
    """
    missing = [key for key, value in identity.items() if not value]
    if missing:
        raise StateError(f"what was proven needs {', '.join(missing)}: a proof belongs to one release and one configuration")
    lease = releases.hold(fencing, run_id)
    state = releases.read()
    new = set(phases) - set(proven(releases, identity))
    if releases.dry or not new:
        return state, bool(new)
    return releases.commit(state, "proven", lease, run_id=run_id, phases=phases, **identity, result="ok"), True


def proven(releases: Releases, identity: dict) -> dict[str, str]:
    """{phase: run id of the newest run that proved it for exactly this release and configuration}."""
    found = {}
    for entry in releases.history():
        if entry["action"] == "proven" and all(entry[key] == value for key, value in identity.items()):
            found.update(dict.fromkeys(entry["phases"], entry["run_id"]))
    return found
