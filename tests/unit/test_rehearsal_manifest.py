"""The gate over a rehearsal's manifest, its waivers, its file; verdicts from findings; evidence."""

from __future__ import annotations

import datetime
import json

import pytest
from ansible.module_utils.greenroom.rehearsal import manifest, report, verdict
from ansible.module_utils.greenroom.rehearsal.errors import RehearsalError
from ansible.module_utils.greenroom.rehearsal.verdict import finding

TODAY = datetime.date(2026, 11, 20)
GOOD = {"revision": "a", "code": "BROKEN", "reason": "nobody goes back there", "owner": "Anna", "expiry": "2026-12-31"}


def entry(*codes: str, name: str = "a", recoverable: bool | None = None) -> dict:
    findings = [finding(5, code, f"found {code}") for code in codes]
    judged, flags = verdict.of(findings)
    steps = [{"step": number, "status": "pass"} for number in range(12)]
    for one in findings:
        steps[one["step"]]["status"] = "fail"
    return {
        "revision": name, "verdict": judged, "flags": flags, "findings": findings, "recoverable": recoverable, "digest": "d",
        "copy_before": [],
        "rows": {"t": 9}, "side_copy": [], "steps": steps,
    }  # fmt: skip


def made(*entries: dict, missed: bool = False, checks: tuple = ()) -> dict:
    walked = [{"name": "bad", "code": "X", "caught": not missed, "found": []}]
    return manifest.made(
        list(entries), walked, list(checks), tool="alembic", heads=["a"], current=[], depth="default", chance=1, seconds=1.0, about={}
    )


def blockers(*codes: str, waivers: tuple = (), **more) -> list[str]:
    recoverable = more.pop("recoverable", None)
    return [one["code"] for one in manifest.gate(made(entry(*codes, recoverable=recoverable)), list(waivers), TODAY, **more)]


@pytest.mark.parametrize(
    ("codes", "judged", "flags"),
    [
        ((), "LOSSLESS", []),
        (("NOTE",), "LOSSLESS", []),
        (("REWRITE", "LOCK"), "LOSSLESS", ["REWRITE", "LOCK"]),
        (("DISAPPEARS",), "LOSSY_AFTER_WRITES", []),
        (("DISAPPEARS", "DOWNGRADE_FAILS_AFTER_WRITES"), "FAILS_AFTER_WRITES", []),
        (("DATA_LOST", "OLD_APP_BREAKS"), "DESTRUCTIVE", ["OLD_APP_BREAKS"]),
        (("DATA_LOST", "COLUMN_ORDER"), "DESTRUCTIVE", []),
        (("COLUMN_ORDER",), "BROKEN", []),
        (("DATA_LOST", "DOWNGRADE_INCOMPLETE"), "BROKEN", []),
        (("NOT_SEEDED", "DISAPPEARS"), "UNPROVEN", []),
    ],
)
def test_verdicts(codes, judged, flags):
    assert verdict.of([finding(5, code, "") for code in codes]) == (judged, flags)


@pytest.mark.parametrize("code", ["DISAPPEARS", "DOWNGRADE_FAILS_AFTER_WRITES", "REWRITE"])
def test_what_only_narrows_the_ways_back_does_not_stop_a_deployment(code):
    assert blockers(code) == []


@pytest.mark.parametrize(
    ("code", "blocker"),
    [
        ("DOWNGRADE_FAILS", "BROKEN"), ("DATA_LOST", "DESTRUCTIVE"), ("NOT_SEEDED", "UNPROVEN"), ("OLD_APP_BREAKS", "OLD_APP_BREAKS"),
        ("LOCK", "LOCK"), ("NOT_ATOMIC", "NOT_ATOMIC"), ("NONDETERMINISTIC", "NONDETERMINISTIC"), ("SWALLOWS_ERRORS", "SWALLOWS_ERRORS"),
    ],
)  # fmt: skip
def test_what_stops_a_deployment(code, blocker):
    (one,) = manifest.gate(made(entry(code)), [], TODAY)
    assert one["code"] == blocker and one["revision"] == "a" and f"found {code}" in one["reason"] and one["fix"]


def test_data_that_is_lost_is_named_even_where_the_downgrade_is_broken_too():
    assert blockers("DATA_LOST", "DOWNGRADE_INCOMPLETE") == ["BROKEN", "DESTRUCTIVE"]
    assert blockers("DATA_LOST", "DOWNGRADE_INCOMPLETE", waivers=(GOOD,)) == ["DESTRUCTIVE"]


def test_a_side_copy_lets_a_destructive_one_pass_only_if_it_was_seen_to_bring_everything_back():
    assert blockers("DATA_LOST", side_copies=True, recoverable=True) == []
    assert blockers("DATA_LOST", side_copies=True, recoverable=False) == ["DESTRUCTIVE"]
    assert blockers("DATA_LOST", side_copies=True) == ["DESTRUCTIVE"]
    assert blockers("DATA_LOST", recoverable=True) == ["DESTRUCTIVE"]


def test_a_waiver_takes_one_code_of_one_revision_out_until_it_expires():
    assert blockers("DOWNGRADE_FAILS", waivers=(GOOD,)) == []
    assert blockers("DOWNGRADE_FAILS", waivers=({**GOOD, "expiry": datetime.date(2026, 11, 20)},)) == []
    assert blockers("DOWNGRADE_FAILS", waivers=({**GOOD, "revision": "b"},)) == ["BROKEN"]
    assert blockers("DOWNGRADE_FAILS", "OLD_APP_BREAKS", waivers=(GOOD,)) == ["OLD_APP_BREAKS"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expiry": "2026-11-19"}, "expired on 2026-11-19; Anna knows"),
        ({"expiry": "soon"}, "is no date"),
        ({"reason": " "}, "lacks reason"),
        ({"owner": None}, "lacks owner"),
        ({"code": "UNPROVEN"}, "cannot be waived"),
        ({"code": "CHANGED"}, "cannot be waived"),
        ({"because": "x"}, "unknown keys because"),
    ],
)
def test_a_waiver_that_is_not_whole_waives_nothing_and_is_a_blocker_itself(change, words):
    found = manifest.gate(made(entry("DOWNGRADE_FAILS")), [{**GOOD, **change}], TODAY)
    assert [one["code"] for one in found] == ["WAIVER", "BROKEN"] and words in found[0]["reason"]


def test_what_was_not_rehearsed_or_has_changed_since_stops():
    found = made(entry())
    assert manifest.gate(found, [], TODAY, pending=["a"], digests={"a": "d"}) == []
    assert [one["code"] for one in manifest.gate(found, [], TODAY, pending=["a", "b"])] == ["NOT_REHEARSED"]
    assert [one["code"] for one in manifest.gate(found, [], TODAY, digests={"a": "other"})] == ["CHANGED"]


def test_a_control_that_was_missed_or_left_out_makes_every_verdict_void():
    assert [one["code"] for one in manifest.gate(made(entry(), missed=True), [], TODAY)] == ["REHEARSAL_BROKEN"]
    none = manifest.made([entry()], [], [], tool="x", heads=[], current=None, depth="default", chance=1, seconds=1, about={})
    assert [one["code"] for one in manifest.gate(none, [], TODAY)] == ["REHEARSAL_BROKEN"]


def test_a_red_check_of_the_chain_stops_and_can_be_waived():
    check = {"check": "one_head", "status": "fail", "text": "two heads"}
    found = made(entry(), checks=(check,))
    assert [one["code"] for one in manifest.gate(found, [], TODAY)] == ["CHAIN"]
    assert manifest.gate(found, [{**GOOD, "revision": "one_head", "code": "CHAIN"}], TODAY) == []


def test_a_manifest_that_was_changed_cut_or_is_none_is_refused(tmp_path):
    file = tmp_path / "m.json"
    file.write_text(json.dumps(made(entry("DOWNGRADE_FAILS"))))
    assert manifest.read(file)["revisions"][0]["verdict"] == "BROKEN"
    text = file.read_text()
    file.write_text(text.replace('"BROKEN"', '"LOSSLESS"'))
    with pytest.raises(RehearsalError, match="was changed after it was written"):
        manifest.read(file)
    for content, words in ((text[:-20], "no manifest"), ("[]", "no manifest"), (text.replace('"format": 1', '"format": 2'), "format 2")):
        file.write_text(content)
        with pytest.raises(RehearsalError, match=words):
            manifest.read(file)
    with pytest.raises(RehearsalError, match="no manifest"):
        manifest.read(tmp_path / "absent")


def test_evidence_is_red_for_what_stops_and_names_what_was_accepted():
    def statuses(*codes, waivers=()):
        found = made(entry(*codes))
        params = {"waivers": list(waivers), "pending": None, "side_copies": False}
        return {one["id"].split(".", 1)[1]: one for one in report.judged(found, params, TODAY)["evidence"]}

    assert {one["status"] for one in statuses().values()} == {"pass"}
    red = statuses("DATA_LOST")
    assert red["verdict"]["status"] == "fail" and red["migration_rollback.data"]["status"] == "fail"
    waived = statuses("DOWNGRADE_INCOMPLETE", waivers=(GOOD,))
    assert waived["verdict"]["status"] == "pass"
    data = waived["migration_rollback.data"]
    assert data["detail"]["accepted"] == ["a"] and data["observed"] == "0 of 1 revisions"
