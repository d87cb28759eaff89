"""`state.json`: what is live, previous, good, bad and in progress, written whole and sealed; and its copies on other hosts.

Rules (docs/state.md): a counter orders states, never a time; a file that was cut or edited stops everything and is never guessed at.
Standard library only.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

from .durable import DurableError, read_sealed, sealed, write_sealed
from .switch import other

SCHEMA = 1


class StateError(Exception):
    """The state cannot be trusted, or does not allow what was asked; the text says which, where, and what to do.

    `exit_status` is what a command should end with: 2 as before, 3 refused before any change, 4 a person is needed.
    """

    def __init__(self, text: str, exit_status: int = 3):
        super().__init__(text)
        self.exit_status = exit_status


def utc() -> str:
    """Now, ISO 8601 UTC. For people; nothing is ordered by it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def empty(service: str) -> dict:
    """The state before the first deploy.

    A job `in_progress` is a deploy or a rollback (`kind`), at step planned, staged, switching, switched or switched_back. Before
    `switching` users are untouched; from then on only a switch decides. `good`: numbers of the releases that were proven live, in the
    order in which a rollback takes them back; `migrated`: what releases did to the schema and how far it can be undone.
    """
    return {
        "schema": SCHEMA,
        "service": service,
        "counter": 0,
        "live": None,
        "previous": None,
        "last_known_good": None,
        "bad": [],
        "in_progress": None,
        "next_number": 1,
        "slots": {"blue": None, "green": None},
        "good": [],
        "migrated": [],
        "releases": {},
        "versions": {},
        "last_entry": None,
    }


def idle_slot(state: dict) -> str:
    """The slot a new release goes to: the one users are not on; blue before the first deploy."""
    return other(state["live"]["slot"]) if state["live"] else "blue"


def rollback_target(state: dict) -> int | None:
    """The release a rollback goes to: the newest proven one below the live one, never one that was found bad; None if there is none.

    A rollback cuts `good` at its target, so that a second one goes further back and never forth again.
    """
    live = state["live"]["number"] if state["live"] else None
    bad = {one["number"] for one in state["bad"]}
    good = [number for number in good_of(state) if number not in bad]
    if live in good:
        good = good[: good.index(live)]
    return good[-1] if good else None


def good_of(state: dict) -> list[int]:
    """Its `good`; of a state from before rollbacks were built, what it knows to have been live."""
    known = [state[key]["number"] for key in ("previous", "last_known_good") if state[key]]
    return state.get("good", sorted(set(known)))


def cut_good(good: list[int], number: int) -> list[int]:
    """`good` after release `number` was proven live: what was above it is left behind, a new one goes on top."""
    return [*(good[: good.index(number)] if number in good else good), number]


def found_bad(about: dict, number: int, run_id: str, reason: str) -> dict:
    """A release that is not deployed again without an explicit word, for `bad`."""
    content = {key: about.get(key) for key in ("version", "commit", "lock_sha256", "config_digest")}
    return {"number": number, **content, "run_id": run_id, "reason": reason, "at": utc()}


def about_release(state: dict, number: int | None) -> dict | None:
    """{number, version, slot or None, config_digest} of a staged release, as `live` and `previous` say it; None without a number."""
    if number is None:
        return None
    about = state["releases"].get(str(number), {})
    slot = next((slot for slot, held in state["slots"].items() if held == number), None)
    return {"number": number, "version": about.get("version"), "slot": slot, "config_digest": about.get("config_digest")}


def protected(state: dict) -> list[int]:
    """Numbers of releases that may never be removed: live, previous, last known good, in progress, and what the slots hold."""
    named = [state[key]["number"] for key in ("live", "previous", "last_known_good", "in_progress") if state[key]]
    return sorted({*named, *(number for number in state["slots"].values() if number)})


def matches_live(state: dict, version: str, commit: str, lock_sha256: str, config_digest: str | None) -> bool:
    """Whether the confirmed live release is this very one, configuration included: a deploy of it is a no-op."""
    live = state["live"]
    if not live or not live["confirmed"] or state["in_progress"]:
        return False
    about = state["releases"].get(str(live["number"]), {})
    return (live["version"], about.get("commit"), about.get("lock_sha256"), live["config_digest"]) == (
        version,
        commit,
        lock_sha256,
        config_digest,
    )


def read_state(path: str | os.PathLike, service: str) -> dict | None:
    """The state of `service` in `path`, None if there is no such file.

    Raises StateError when the file was cut or edited, or is another service's or a newer schema's.
    """
    advice = copies(path)
    try:
        state = read_sealed(path, advice)
    except DurableError as error:
        raise StateError(str(error), 4) from error
    if state is None:
        return None
    if state.get("schema") != SCHEMA:
        raise StateError(f"{path}: schema {state.get('schema')!r}, this Greenroom knows {SCHEMA}. Use the version that wrote it.", 4)
    if state.get("service") != service:
        raise StateError(f"{path}: is the state of {state.get('service')!r}, not of {service!r}. {advice}", 4)
    return state


def copies(path: str | os.PathLike) -> str:
    """What a person does when the state cannot be trusted."""
    return (
        f"Nothing is guessed, and nothing changes until a person decides: the app hosts keep copies at {path}. Take the valid one with the "
        "highest counter from the control node: ansible-playbook deploy.yml … -e run_adopt=true -e \"run_reason='<why>'\"."
    )


def read_copy(path: str | os.PathLike) -> dict | None:
    """A valid state in `path`, whosesoever; None if there is none or it was cut or edited."""
    try:
        return read_sealed(path, "")
    except DurableError:
        return None


def store_copy(directory: str | os.PathLike, content: object, *, dry: bool = False) -> bool:
    """Keep a copy of the gateway's state on another host; True if it was (or would be) written.

    Raises StateError: the checksum is wrong, the copy is older than the one here, or another one with the same counter.
    """
    path = Path(directory) / "state.json"
    if isinstance(content, (str, bytes)):
        try:
            content = json.loads(content)
        except ValueError as error:
            raise StateError(f"the state to store in {path} is no JSON: {error}") from error
    if not sealed(content) or not isinstance(content.get("counter"), int):
        raise StateError(
            f"the state to store in {path} has no valid checksum: it was cut or changed on its way. Read it from the gateway again."
        )
    here = read_copy(path)  # a damaged copy is what the gateway's valid one is for
    if here:
        if here["checksum"] == content["checksum"]:
            return False
        if here.get("counter", -1) >= content["counter"]:
            raise StateError(
                f"{path}: the copy here has counter {here.get('counter')}, the gateway's state only {content['counter']}: the "
                "gateway was set "
                f"back or rebuilt. Compare both before anything else; the highest valid counter is the truth.",
                4,
            )
    if not dry:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_sealed(path, content)
    return True
