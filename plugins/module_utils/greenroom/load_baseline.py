"""Results of good load tests, kept on the generator's host as what the next release is compared with. Source: 001 §6.2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .durable import write_atomic

KEPT = 50
KEYS = ("release", "run_id", "at", "identity", "p95_ms", "rps", "error_percent")


def load(path: str | Path) -> list[dict]:
    """The kept results, oldest first; none if there is no file. Raises ValueError if the file is damaged: a guess would pass anything."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}); move it away to begin with new baselines") from None
    if not isinstance(found, list) or not all(isinstance(one, dict) and set(KEYS) <= one.keys() for one in found):
        raise ValueError(f"{path}: is no list of results; move it away to begin with new baselines")
    return found


def find(results: list[dict], identity: str, release: str) -> dict | None:
    """The newest result of another release with the same profile and locust file (`load_profile.identity`)."""
    return next((one for one in reversed(results) if one["identity"] == identity and one["release"] != release), None)


def keep(path: str | Path, results: list[dict], result: Mapping) -> None:
    """Add a good result; of one release the newest counts. Raises OSError."""
    others = [one for one in results if (one["identity"], one["release"]) != (result["identity"], result["release"])]
    kept = [*others, {key: result[key] for key in KEYS}][-KEPT:]
    path = Path(path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(kept, indent=1) + "\n").encode())
