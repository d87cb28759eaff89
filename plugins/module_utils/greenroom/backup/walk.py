"""The walk that every proof of a backup makes: named steps in their order, one evidence record each.

The first step that fails ends the walk; what comes after it is "not run", never "ok". A check that breaks is an error, never a pass.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping

from .. import durable
from ..records import ERROR, FAIL, NOT_RUN, PASS, record, utc_now
from .errors import BackupError

VERIFIED, FAILED, BROKEN = "verified", "failed", "verifier broken"
EXPIRES_S = 86400  # after a day the statement is history: disks and stores age


class Stop(Exception):
    """A step failed: the walk is over."""


class Walk:
    """What the walks share. A subclass has a method `_<name>` for each step.

    That method returns (observed, detail), with observed None and a reason in detail where it could not be run, or raises BackupError,
    whose result may hold `observed`. steps: {name: (evidence id, expected)}. label: tells its records apart, as `detail.target`.
    """

    def __init__(self, steps: Mapping[str, tuple], label: str, result: dict, host: str | None = None):
        self.steps, self.label, self.host = steps, label, host
        self.result: dict = {"verdict": FAILED, "seconds": {}, "differences": [], **result}
        self.evidence: list[dict] = []

    def _record(self, evidence_id: str, status: str, expected: object, observed: object = None, **more) -> None:
        detail = {"target": self.label, **(more.pop("detail", None) or {})}
        self.evidence.append(record(evidence_id, status, expected, observed, detail=detail, host=self.host, **more))

    def _expected(self, name: str) -> object:
        """What a step's record says was expected."""
        return self.steps[name][1]

    def _step(self, name: str) -> None:
        """Run the method of a step and keep its record and its seconds. Raises Stop if it did not pass."""
        started, start = utc_now(), time.monotonic()
        status, observed, reason, detail = ERROR, None, None, None
        try:
            observed, detail = getattr(self, f"_{name}")()
            status = PASS
            if observed is None:
                status, reason = NOT_RUN, detail["reason"]
        except BackupError as error:
            status, reason, observed = FAIL, str(error), error.result.get("observed", "refused")
        except Exception as error:
            reason = f"the check itself broke: {type(error).__name__}: {error}"
        seconds = round(time.monotonic() - start, 3)
        self.result["seconds"][name] = seconds
        timing = {"started": started, "duration_ms": seconds * 1000}
        self._record(self.steps[name][0], status, self._expected(name), observed, reason=reason, detail=detail, **timing)
        if status not in (PASS, NOT_RUN):
            self.result["failed_step"] = name
            raise Stop

    def _conclude(self, now: datetime.datetime, *, green: str = VERIFIED, left_out: str = "") -> dict:
        """The result, with a record for every step that was not run, the verdict (`green` where nothing failed), statement and digest.

        left_out: why steps are missing although none failed.
        """
        done, failed = {one["id"] for one in self.evidence}, self.result.get("failed_step")
        for evidence_id, expected in self.steps.values():
            if evidence_id not in done:
                self._record(evidence_id, NOT_RUN, expected, reason=f"the step {failed} failed before it" if failed else left_out)
        if not failed:
            self.result["verdict"] = green
        expires = (now + datetime.timedelta(seconds=EXPIRES_S)).isoformat()
        result = {**self.result, "evidence": self.evidence, "statement": self._statement(), "expires": expires}
        return {**result, "sha256": durable.digest(result)}

    def _statement(self) -> str:
        """What was proved, in words; or at which step it failed, and why."""
        raise NotImplementedError
