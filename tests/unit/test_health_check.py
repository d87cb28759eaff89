"""The runner of probes: the list is checked whole first, breakage is never a pass, probes run side by side, secrets stay inside."""

import ast
import dataclasses
import json
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import health_check, probes
from ansible.module_utils.greenroom.probes import base, compare
from ansible.module_utils.greenroom.probes.base import Arg, Outcome, Probe, ProbeError

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "plugins" / "modules" / "health_check.py"
FOLDER = ROOT / "plugins" / "module_utils" / "greenroom" / "probes"
HELPERS = {"__init__", "base", "client", "compare", "processes"}


def plan_problems(probes_given, secrets=None):
    with pytest.raises(health_check.SpecError) as error:
        health_check.plan(probes_given, secrets)
    return error.value.problems


@pytest.fixture
def probe(monkeypatch):
    """Register a probe type `trial` that runs the function given."""

    def register(run, **args):
        monkeypatch.setitem(probes.PROBES, "trial", Probe("trial", "a trial passes", args, run))

    return register


def run(*given, secrets=None, parallel=16):
    return health_check.run(health_check.plan(list(given), secrets), secrets, parallel)


def trial(**more):
    return {"id": "test.id", "type": "trial", **more}


# --- the list ---------------------------------------------------------------------------------------------------------


def test_no_probe_is_a_failure():
    assert "there is no probe" in plan_problems([])[0]


def test_every_problem_of_the_list_is_named_at_once_with_probe_and_key():
    problems = plan_problems(
        [
            {"id": "a.b", "type": "tcp", "host": "x"},
            {"id": "a.c", "type": "tcp", "host": "x", "port": 1, "prot": 2},
            {"id": "a.d", "type": "ftp"},
            {"type": "tcp", "host": "x", "port": 1},
            {"id": "a.e", "type": "tcp", "host": "x", "port": "http"},
            {"id": "a.f", "type": "tcp", "host": "x", "port": 1, "expect": "ajar"},
            {"id": "a.g", "type": "redis", "url_key": "nope"},
            {"id": "a.h", "type": "http", "url": "http://u:hunter2hunter2@h/"},
            {"id": "a.i", "type": "tcp", "host": "x", "port": 1, "timeout_s": 0},
            {"id": "a.j", "type": "postgresql", "host": "x", "dbname": "d", "user": "u", "query": "SELECT 1"},
            "not a dict",
        ]
    )
    text = "\n".join(problems)
    for part in (
        "probe 1 (a.b): port: missing",
        "probe 2 (a.c): prot: unknown",
        "probe 3 (a.d): type: unknown type 'ftp'",
        "probe 4: id: missing",
        "probe 5 (a.e): port: must be int",
        "probe 6 (a.f): expect: must be one of",
        "probe 7 (a.g): url_key: names the secret 'nope'",
        "probe 8 (a.h): url: holds a user or password",
        "probe 9 (a.i): timeout_s",
        "probe 10 (a.j): expect: missing",
        "probe 11: must be a dict",
    ):
        assert part in text
    assert "hunter2" not in text


def test_nothing_runs_when_one_probe_of_the_list_is_wrong(probe):
    ran = []
    probe(lambda args, context: ran.append(1))
    plan_problems([trial(), trial(unknown=1)])
    assert ran == []


def test_arguments_are_converted_strictly(probe):
    seen = []
    probe(
        lambda args, context: (seen.append(args), Outcome(True, "", ""))[1],
        n=Arg("int", ""),
        f=Arg("float", ""),
        b=Arg("bool", ""),
        s=Arg("str", ""),
        many=Arg("list", "", elements="int"),
        d=Arg("dict", "", default={}),
    )
    run(trial(n="5", f="2.5", b="yes", s=15, many=["1", 2]), trial(many=3))
    assert seen[0] == {"n": 5, "f": 2.5, "b": True, "s": "15", "many": [1, 2], "d": {}}
    assert seen[1]["many"] == [3]
    for wrong in ({"n": True}, {"n": "5x"}, {"b": 1}, {"f": "nan"}, {"many": ["x"]}, {"d": []}, {"s": {}}):
        assert plan_problems([trial(**wrong)])


# --- running ----------------------------------------------------------------------------------------------------------


def test_exceptions_and_missing_libraries_are_errors_and_never_a_pass(probe):
    def broken(args, context):
        raise ZeroDivisionError("boom")

    probe(broken)
    (record,) = run(trial())
    assert (record["status"], record["reason"]) == ("error", "the probe trial failed: ZeroDivisionError: boom")

    def lacking(args, context):
        base.need("no_such_library_here")

    probe(lacking)
    (record,) = run(trial(within_s=30))
    assert record["status"] == "error"
    assert "ansible_python_interpreter" in record["reason"]
    assert record["duration_ms"] < 5000


@pytest.mark.parametrize("answer", [None, 1, "passed", ("maybe", "", ""), (1, "", ""), ("pass-ish", 1, 2), ([], "", "")])
def test_a_probe_that_answers_nonsense_does_not_pass(probe, answer):
    probe(lambda args, context: answer)
    assert run(trial())[0]["status"] == "error"


def test_a_record_that_cannot_be_made_is_an_error_at_once(probe, monkeypatch):
    probe(lambda args, context: Outcome(True, "", ""))
    monkeypatch.setattr(health_check, "target", lambda planned: 1 / 0)
    (record,) = run(trial())
    assert (record["status"], record["reason"]) == ("error", "the measurement broke: ZeroDivisionError: division by zero")


def test_probes_run_side_by_side_but_no_more_than_allowed(probe):
    running, most, lock = [0], [0], threading.Lock()

    def slow(args, context):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.2)
        with lock:
            running[0] -= 1
        return Outcome(True, "", "")

    probe(slow)
    started = time.monotonic()
    records = run(*[trial(id=f"t.n{number}") for number in range(12)], parallel=4)
    assert most[0] == 4
    assert 0.55 < time.monotonic() - started < 2
    assert [record["id"] for record in records] == [f"t.n{number}" for number in range(12)]


def test_a_probe_that_hangs_is_given_up_and_holds_nobody_up(probe, monkeypatch):
    monkeypatch.setattr(health_check, "GRACE_S", 0.2)
    release = threading.Event()
    probe(
        lambda args, context: (release.wait(20), Outcome(True, "", ""))[1] if args["hang"] else Outcome(True, "", ""),
        hang=Arg("bool", "", default=False),
    )
    started = time.monotonic()
    records = run(trial(hang=True, timeout_s=0.2), *[trial()] * 3, parallel=1)
    release.set()
    assert time.monotonic() - started < 3
    assert [record["status"] for record in records] == ["error", "pass", "pass", "pass"]
    assert "was given up" in records[0]["reason"]


def test_within_keeps_trying_until_it_passes_or_time_is_over(probe):
    tries = []

    def third_time(args, context):
        tries.append(1)
        return Outcome(len(tries) >= 3, "third try", f"try {len(tries)}", "not yet")

    probe(third_time)
    (record,) = run(trial(within_s=10))
    assert (record["status"], record["detail"]["attempts"]) == ("pass", 3)
    probe(lambda args, context: Outcome(False, "never", "no", "never passes"))
    started = time.monotonic()
    (record,) = run(trial(within_s=0.6))
    assert record["status"] == "fail"
    assert time.monotonic() - started < 2
    (record,) = run(trial())
    assert "attempts" not in record["detail"]


def test_secrets_are_taken_out_of_everything_in_all_their_forms(probe):
    secrets = {"password": 'p@ss w"ord/77', "url": "redis://:Rd%40s-secret@h/0"}
    leak = lambda: "|".join([secrets["password"], "p%40ss%20w%22ord%2F77", "Rd@s-secret", "Rd%40s-secret", secrets["url"]])  # noqa: E731
    probe(lambda args, context: Outcome(False, leak(), leak(), leak(), {"deep": [leak()], leak(): 1}))
    (record,) = run(trial(name=f"n {secrets['password']}"), secrets=secrets)
    text = json.dumps(record)
    for value in (secrets["password"], "p%40ss%20w%22ord%2F77", "Rd@s-secret", "Rd%40s-secret"):
        assert value not in text
        assert json.dumps(value)[1:-1] not in text
    assert "<secret password>" in text
    probe(lambda args, context: (_ for _ in ()).throw(RuntimeError(leak())))
    (record,) = run(trial(), secrets=secrets)
    assert "Rd@s" not in json.dumps(record)
    assert record["status"] == "error"


def test_the_whole_passes_only_if_every_part_does_and_the_required_ones_are_there():
    parts = ("verify.health.http", "verify.health.latency")
    good = [{"id": id, "status": "pass"} for id in (*parts, "verify.api.basic")]
    whole = health_check.as_whole(good, "verify.health.script", "slot blue", parts)
    assert (whole["status"], whole["observed"], whole["detail"]) == ("pass", "3 of 3 parts passed", {"target": "slot blue"})
    assert whole["expected"] == "every part passes: verify.api.basic, verify.health.http, verify.health.latency"
    red = health_check.as_whole([*good, {"id": "verify.api.basic", "status": "not_run", "reason": "no time"}], "x", "y", parts)
    assert (red["status"], red["reason"]) == ("fail", "verify.api.basic: no time")
    assert health_check.as_whole(good[1:], "x", "y", parts)["reason"] == "verify.health.http: not measured"
    assert health_check.as_whole([], "x", "y")["status"] == "fail"


def test_summary_lists_every_blocker_with_what_was_wanted_and_seen(probe):
    probe(lambda args, context: Outcome(args["ok"], "wanted this", "saw that", "do something"), ok=Arg("bool", ""))
    records = run(trial(ok=True), trial(id="x.y", ok=False, name="slot blue"))
    assert health_check.counts(records) == {"pass": 1, "fail": 1, "error": 0, "no_evidence": 0, "not_applicable": 0, "not_run": 0}
    assert health_check.blockers(records) == ["x.y [slot blue] fail: expected wanted this, observed saw that: do something"]


# --- comparisons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "value", "ok"),
    [
        (1, 1, True),
        (1, True, False),
        (True, 1, False),
        (1, 1.0, True),
        ("1", 1, False),
        (None, None, True),
        ([1, "a"], [1, "a"], True),
        ([1], [True], False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"ge": 1, "lt": 5}, 4, True),
        ({"ge": 1, "lt": 5}, 5, False),
        ({"ge": 1}, "4", False),
        ({"ge": 0}, float("nan"), False),
        ({"ne": 3}, 4, True),
        ({"in": ["a", "b"]}, "b", True),
        ({"in": [1]}, True, False),
        ({"matches": "^a"}, "abc", True),
        ({"matches": "^a"}, 5, False),
        ({"min_length": 1}, [], False),
        ({"present": True}, "", True),
        ({"present": False}, "x", False),
        ({"present": False}, compare.ABSENT, True),
        ({"ne": 1}, compare.ABSENT, False),
        ("x", compare.ABSENT, False),
    ],
)
def test_compare(rule, value, ok):
    assert compare.compare(rule, value)[0] is ok


def test_percentile_is_a_measured_value():
    assert compare.percentile(list(range(1, 101)), 95) == 95
    assert compare.percentile([3.0], 95) == 3.0
    assert compare.percentile(list(range(1, 21)), 95) == 19


# --- the registry and the module --------------------------------------------------------------------------------------


def test_every_file_of_the_folder_is_a_probe_that_is_listed():
    files = {path.stem for path in FOLDER.glob("*.py")} - HELPERS
    listed = {probe.run.__module__.rsplit(".", 1)[-1] for probe in probes.PROBES.values()}
    assert listed == files and all(probe.type == name for name, probe in probes.PROBES.items())
    assert all(probe.doc and all(arg.doc for arg in probe.args.values()) for probe in probes.PROBES.values())
    for probe in probes.PROBES.values():
        assert not set(probe.args) & set(health_check.COMMON), f"{probe.type} has an argument that every probe has"
        assert all(
            dataclasses.asdict(arg)["type"] in ("str", "int", "float", "bool", "list", "dict", "any", "secret", "secrets")
            for arg in probe.args.values()
        )


def test_probes_import_third_party_libraries_only_inside_functions():
    for path in [*FOLDER.glob("*.py"), *FOLDER.parent.glob("env_*.py"), FOLDER.parent / "health_check.py"]:
        for node in ast.parse(path.read_text()).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name} at its top"


def documentation():
    tree = ast.parse(MODULE.read_text())
    text = next(node.value.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "DOCUMENTATION")
    return yaml.safe_load(text)


def test_the_documentation_names_every_probe_and_argument_as_they_are():
    notes = documentation()["notes"]
    for line in health_check.describe():
        assert line in notes, f"say in the notes of health_check: {line}"
    assert len([note for note in notes if note.startswith("B(")]) == len(probes.PROBES)


def test_probe_errors_name_the_way_out():
    with pytest.raises(ProbeError, match="no secret 'x'"):
        base.Context(1).secret("x")
