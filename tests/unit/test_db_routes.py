"""Which way back, when: every row of the table, and every reason for a closed way."""

from __future__ import annotations

import dataclasses

import pytest
from ansible.module_utils.greenroom import db_routes
from ansible.module_utils.greenroom.db_routes import Situation, choose, routes

RELEASE = Situation("bad_release", verdict="BROKEN", old_app_works=False, archived_s=20.0, seconds={"downgrade": 0.02, "side_copy": 1.3})


def situation(**more) -> Situation:
    return dataclasses.replace(RELEASE, **more)


@pytest.mark.parametrize(
    ("now", "name", "loss"),
    [
        (situation(old_app_works=True, verdict="LOSSLESS"), "leave_schema", "nothing"),
        (situation(verdict="LOSSLESS"), "downgrade", "nothing"),
        (situation(verdict="LOSSY_AFTER_WRITES", recoverable=True), "side_copy_downgrade", "kept in the side copy"),
        (situation(verdict="FAILS_AFTER_WRITES"), "fix_up_downgrade", "kept in the side copy"),
        (Situation("failed_upgrade", undone_at_once=True), "forward_fix", "nothing"),
        (Situation("failed_upgrade", invalid_indexes=("a_idx",)), "forward_fix", "nothing"),
        (situation(verdict="DESTRUCTIVE", snapshot=True, rows_since_snapshot=7), "swap", "7 row(s) written since"),
        (situation(verdict="DESTRUCTIVE", snapshot=True, rows_since_snapshot=0), "swap", "nothing"),
        (Situation("bad_statement", archived_s=5.0), "clone_and_merge", "nothing elsewhere"),
        (Situation("wrecked", archived_s=5.0, restore_point=True), "point_in_time", "since the named restore point"),
        (Situation("host_lost", archived_s=5.0, standby=True), "standby", "nothing"),
        (Situation("host_lost", archived_s=5.0), "point_in_time", "in the last 5 s"),
        (Situation("host_lost", archived_s=5.0, received=True), "point_in_time", "nothing"),
        (Situation("corruption", standby=True), "standby", "nothing"),
        (Situation("store_lost"), "older_backup", "everything written since it"),
        (Situation("stuck"), "terminate", "open transactions"),
    ],
)
def test_the_first_choice(now, name, loss):
    one = choose(now)
    assert one.name == name and loss in one.loss and one.reason


@pytest.mark.parametrize(
    ("now", "wanted", "words"),
    [
        (situation(verdict="BROKEN"), "downgrade", "no downgrade that restores the schema"),
        (situation(verdict="DESTRUCTIVE"), "downgrade", "not their data"),
        (situation(verdict="UNPROVEN"), "downgrade", "could not show"),
        (situation(verdict=None), "downgrade", "was not rehearsed"),
        (situation(verdict="LOSSY_AFTER_WRITES"), "side_copy_downgrade", "no side copy was seen to bring it back"),
        (situation(), "leave_schema", "breaks on this schema"),
        (situation(old_app_works=None), "leave_schema", "was not tried"),
        (situation(), "swap", "there is no copy"),
        (situation(snapshot=True), "swap", "not known how many rows"),
        (situation(snapshot=True, rows_since_snapshot=1, prepared=2), "swap", "2 prepared transaction"),
        (situation(archived_s=None), "point_in_time", "nothing is known of the archive"),
        (Situation("wrecked", standby=True), "standby", "has the same mistake"),
        (Situation("failed_upgrade"), "forward_fix", "never|not known what the failed upgrade left"),
        (Situation("bad_release"), "terminate", "sessions are not what is wrong"),
    ],
)
def test_a_closed_way_says_why(now, wanted, words):
    with pytest.raises(ValueError, match=words):
        choose(now, wanted)


def test_the_order_keeps_the_newest_writes_longest():
    now = situation(old_app_works=True, verdict="LOSSLESS", snapshot=True, rows_since_snapshot=3)
    names = [one.name for one in routes(now) if one.open]
    assert names == ["leave_schema", "downgrade", "swap", "clone_and_merge", "point_in_time", "older_backup"]
    assert choose(now, "swap").name == "swap"
    assert {one.name for one in routes(now) if not one.open} == {"terminate", "forward_fix", "standby"}


def test_an_unknown_situation_is_refused():
    with pytest.raises(ValueError, match="unknown situation 'x'"):
        routes(Situation("x"))


def test_what_the_manifest_says():
    def entry(name, verdict, **more):
        base = {"revision": name, "verdict": verdict, "flags": [], "recoverable": None, "side_copy": []}
        return {**base, "measured": {"down_seconds": 0.25}, **more}

    copy = [{"table": "t", "columns": ["c"]}]
    lossy = entry("b", "LOSSY_AFTER_WRITES", recoverable=True, side_copy=copy, flags=["OLD_APP_BREAKS"])
    manifest = {"revisions": [entry("a", "LOSSLESS"), lossy]}
    both = db_routes.from_manifest(manifest, ["a", "b"])
    assert both == {
        "verdict": "LOSSY_AFTER_WRITES", "old_app_works": False, "recoverable": True, "seconds": {"downgrade": 0.5},
        "side_copy": {"b": copy},
    }  # fmt: skip
    one = db_routes.from_manifest(manifest, ["a"])
    assert one["verdict"] == "LOSSLESS" and one["old_app_works"] is True and one["recoverable"] is None
    unknown = db_routes.from_manifest(manifest, ["a", "z"])
    assert unknown["verdict"] == "UNPROVEN" and unknown["old_app_works"] is False
