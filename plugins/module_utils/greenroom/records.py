"""One evidence record: what one check expected and what it observed.

A record is a plain dict, ready for JSON. A module makes it with `id, status, expected, observed` and what else
it knows; the callback adds `phase, title, kind, source` from the catalogue and the host's name.
Statuses and keys: docs/evidence.md.
"""

from __future__ import annotations

import datetime
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

PASS, FAIL, ERROR = "pass", "fail", "error"
NO_EVIDENCE, NOT_APPLICABLE, NOT_RUN = "no_evidence", "not_applicable", "not_run"

# Ordered from good to bad for the eye of a reader; the gate lets nothing but `pass` through by itself.
STATUSES = (PASS, FAIL, ERROR, NO_EVIDENCE, NOT_APPLICABLE, NOT_RUN)

# Every key a record may have, in the order in which they are written.
KEYS = (
    "id", "kind", "phase", "host", "title", "expected", "observed", "unit", "status", "reason",
    "started", "duration_ms", "source", "detail",
)  # fmt: skip


def utc_now() -> str:
    """The time as ISO 8601 in UTC with milliseconds, e.g. `2026-11-20T09:12:44.120Z`."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")  # noqa: UP017 - preflight must run on hosts that are too old, to say so


def finite(value: object) -> bool:
    """False if `value` is NaN or infinite, or holds such a number anywhere inside lists and dicts."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(finite(inner) for inner in value.values())
    if isinstance(value, (list, tuple, set)):
        return all(finite(inner) for inner in value)
    return True


def plain(value: object) -> object:
    """`value` as JSON can hold it. NaN and infinities become their names: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(inner) for inner in value), key=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value)


def unproven(observed: object, detail: object = None) -> str | None:
    """Why a `pass` with this measurement proves nothing: no value, not a number, no samples. None if it proves something."""
    if observed is None:
        return "passed without an observed value"
    if not (finite(observed) and finite(detail)) or observed in ("NaN", "Infinity", "-Infinity"):
        return "the measured value is not a finite number"
    samples = detail.get("samples") if isinstance(detail, dict) else None
    if samples is not None and not (isinstance(samples, (int, float)) and samples > 0):
        return f"passed on {samples!r} samples"
    return None


COMPARISONS = ("equal", "at_least", "at_most", "contains", "matches", "in")


def compare(how: str, expected: object, observed: object) -> bool:
    """Whether `observed` meets `expected`.

    equal     the same value; a text is never equal to a number, True never to 1
    at_least, at_most   both are finite numbers (a version or a text is none: convert it where it is read)
    contains  `expected`, or each member of it if it is a list, is a member of the list or mapping, or a part of the text
    matches   the whole text matches the regular expression `expected`
    in        `observed` is a member of the list `expected`

    Raises ValueError for an unknown comparison, TypeError for values it is not made for.
    """
    if how == "equal":
        return _same(expected, observed)
    if how in ("at_least", "at_most"):
        for name, value in (("expected", expected), ("observed", observed)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not finite(value):
                raise TypeError(f"{how} compares numbers; {name} is {value!r}")
        return observed >= expected if how == "at_least" else observed <= expected
    if how == "contains":
        if not isinstance(observed, (str, list, tuple, dict)):
            raise TypeError(f"contains looks into a text, list or mapping; observed is {observed!r}")
        wanted = expected if isinstance(expected, (list, tuple)) else [expected]
        if not wanted or (isinstance(observed, str) and not all(isinstance(item, str) and item for item in wanted)):
            raise TypeError(f"contains needs something to look for; expected is {expected!r}")
        return all(item in observed for item in wanted)
    if how == "matches":
        return re.fullmatch(str(expected), str(observed)) is not None
    if how == "in":
        if not isinstance(expected, (list, tuple)):
            raise TypeError(f"in looks into the list of allowed values; expected is {expected!r}")
        return any(_same(item, observed) for item in expected)
    raise ValueError(f"unknown comparison {how!r}; one of {', '.join(COMPARISONS)}")


def _same(left: object, right: object) -> bool:
    """Equality that keeps True and 1 apart, at any depth."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(_same(one, other) for one, other in zip(left, right, strict=True))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def record(
    id: str,
    status: str,
    expected: object = None,
    observed: object = None,
    *,
    unit: str | None = None,
    reason: str | None = None,
    detail: dict | None = None,
    host: str | None = None,
    started: str | None = None,
    duration_ms: float | None = None,
    kind: str | None = None,
) -> dict:
    """Make one evidence record; keys that were not given (None) are left out, except expected and observed.

    `detail` is a small dict of raw figures, never a secret; `detail.target` tells two measurements of the same id
    on the same host apart (the idle slot, the gateway). `started` is ISO 8601 UTC, `duration_ms` milliseconds.
    A `pass` without an observed value, with NaN or an infinity, or with `detail.samples` 0 becomes `no_evidence`: it proves nothing.

    Raises ValueError if the id is empty, the status is unknown, or a status other than pass has no reason.
    """
    if not isinstance(id, str) or not id.strip():
        raise ValueError(f"an evidence record needs an id, not {id!r}")
    if status not in STATUSES:
        raise ValueError(f"{id}: unknown status {status!r}; one of {', '.join(STATUSES)}")
    if status == PASS and (why := unproven(observed, detail)):
        status, reason = NO_EVIDENCE, why
    if status != PASS and not (isinstance(reason, str) and reason.strip()):
        raise ValueError(f"{id}: status {status} needs a reason")
    if detail is not None and not isinstance(detail, dict):
        raise ValueError(f"{id}: detail must be a dict, not {type(detail).__name__}")
    made = {"id": id, "status": status, "expected": plain(expected), "observed": plain(observed)}
    extra = {
        "unit": unit, "reason": reason, "detail": plain(detail), "host": host,
        "started": started, "duration_ms": plain(duration_ms), "kind": kind,
    }  # fmt: skip
    made.update({key: value for key, value in extra.items() if value is not None})
    return made


class Measurement:
    """What a `measured` block fills in; `record` is the finished record once the block has ended.

    Inside the block set `observed`, and `status` (with `reason`) or call `judge`. A block that sets no status
    leaves `no_evidence`: forgetting to decide is not passing.
    """

    def __init__(self, id: str, expected: object = None, unit: str | None = None, host: str | None = None):
        self.id, self.expected, self.unit, self.host = id, expected, unit, host
        self.observed: object = None
        self.status: str | None = None
        self.reason: str | None = None
        self.detail: dict = {}
        self.record: dict = {}

    def judge(self, ok: bool, observed: object, reason: str | None = None) -> None:
        """Set status pass or fail. `ok` must be a real bool: a truthy string or None is a mistake (TypeError)."""
        if not isinstance(ok, bool):
            raise TypeError(f"{self.id}: judge() wants True or False, not {ok!r}")
        self.observed = observed
        self.status = PASS if ok else FAIL
        self.reason = None if ok else (reason or f"expected {self.expected!r}, observed {observed!r}")


@contextmanager
def measured(
    id: str,
    expected: object = None,
    *,
    unit: str | None = None,
    host: str | None = None,
    into: list | None = None,
) -> Iterator[Measurement]:
    """Time a check and always leave a record: appended to `into` and kept as `.record` of the yielded Measurement.

    An exception inside the block does not leave it; it becomes an `error` record with the exception's text as reason.

        records = []
        with measured("prep.server.cpu", expected=2, unit="cores", into=records) as check:
            cores = os.cpu_count()
            check.judge(cores >= 2, cores)
    """
    check = Measurement(id, expected, unit, host)
    started, clock = utc_now(), time.monotonic()
    try:
        yield check
    except Exception as error:  # every failure of a measurement is evidence of its own
        check.status, check.reason = ERROR, f"{type(error).__name__}: {error}".strip(": ")
    if check.status is None:
        check.status, check.reason = NO_EVIDENCE, check.reason or "the check ended without a verdict"
    check.record = record(
        id, check.status, expected, check.observed, unit=unit, host=host, reason=check.reason,
        detail=check.detail or None, started=started, duration_ms=round((time.monotonic() - clock) * 1000, 1),
    )  # fmt: skip
    if into is not None:
        into.append(check.record)


def red(evidence: list[dict]) -> str:
    """The reasons of all records that did not pass, '' if none."""
    return "; ".join(f"{one['id']}: {one.get('reason')}" for one in evidence if one["status"] != "pass")
