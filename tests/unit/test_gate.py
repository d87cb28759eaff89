"""The gate, shown red on every way in which evidence can fail to prove something."""

import json

import pytest
from ansible.module_utils.greenroom import gate
from ansible.module_utils.greenroom.catalogue import Catalogue, Entry
from ansible.module_utils.greenroom.records import record


def entry(name, phase="prepare", kind="auto", **extra):
    return Entry(id=name, phase=phase, title=f"Title of {name}", kind=kind, source=("001 L1",), **extra)


def catalogue_of(*entries):
    return Catalogue({item.id: item for item in entries})


ONE = catalogue_of(entry("a"))


def verdict(items, catalogue=ONE, phases=("prepare",), **extra):
    return gate.evaluate(catalogue, items, phases, **extra)


def read(tmp_path, text, lines=None):
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return gate.read_evidence(path, lines)


def test_green_on_a_measured_pass():
    judged = verdict([record("a", "pass", 1, 1)])
    assert judged["verdict"] == "pass" and judged["blockers"] == [] and (judged["required"], judged["passed"]) == (1, 1)


@pytest.mark.parametrize("status", ["fail", "error", "no_evidence", "not_run"])
def test_red_on_every_other_status(status):
    judged = verdict([record("a", status, 1, 2, reason="because", host="app1")])
    assert judged["verdict"] == "fail"
    [blocker] = judged["blockers"]
    assert (blocker["id"], blocker["host"], blocker["status"], blocker["reason"]) == ("a", "app1", status, "because")
    assert (
        blocker["title"] == "Title of a" and blocker["expected"] == 1 and blocker["observed"] == 2 and "--tags prepare" in blocker["todo"]
    )


def test_not_applicable_with_a_reason_is_accepted():
    judged = verdict([record("a", "not_applicable", reason="no broker in this service")])
    assert judged["verdict"] == "pass" and judged["counts"]["not_applicable"] == 1 and judged["passed"] == 0


def test_red_when_nothing_was_recorded():
    judged = verdict([])
    assert judged["verdict"] == "fail" and judged["blockers"][0]["status"] == "no_evidence"


@pytest.mark.parametrize(
    "line", ['{"id": "a", "status": "pass", "expected": 1, "observed": NaN}', '{"id": "a", "status": "pass", "observed": Infinity}']
)
def test_red_on_nan_in_the_file(tmp_path, line):
    found, problems = read(tmp_path, line + "\n")
    assert found == [] and "is no JSON value" in problems[0]["reason"]
    assert verdict(found, problems=problems)["verdict"] == "fail"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [({"observed": "NaN"}, "finite"), ({}, "without an observed value"), ({"observed": 3, "detail": {"samples": 0}}, "0 samples")],
)
def test_red_on_a_pass_that_proves_nothing(tmp_path, extra, reason):
    found, problems = read(tmp_path, json.dumps({"id": "a", "status": "pass", "expected": 1, **extra}) + "\n")
    judged = verdict(found, problems=problems)
    assert judged["verdict"] == "fail" and judged["blockers"][0]["status"] == "no_evidence" and reason in judged["blockers"][0]["reason"]


GOOD_LINE = '{"id": "a", "status": "pass", "expected": 1, "observed": 1}'


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (f"{GOOD_LINE}\n{GOOD_LINE[:20]}", 2, "the last line is cut"),
        (f"{GOOD_LINE}\n{GOOD_LINE}", 2, "the last line is cut"),
        (f"{GOOD_LINE}\n{GOOD_LINE[:20]}\n", 2, "is not JSON"),
        (f"{GOOD_LINE}\n\n", 2, "is not JSON"),
        (f"{GOOD_LINE}\n[1]\n", 2, "is no JSON object"),
        (GOOD_LINE.replace('"a"', '"a", "tick": true') + "\n", 1, "has unknown keys: tick"),
        (GOOD_LINE.replace('"pass"', '"good"') + "\n", 1, "unknown status 'good'"),
        (GOOD_LINE.replace('"pass"', '"fail"') + "\n", 1, "status fail without a reason"),
        (GOOD_LINE.replace('"id": "a", ', "") + "\n", 1, "has no id"),
        (GOOD_LINE.replace("1}", '1, "detail": 3}') + "\n", 1, "detail that is no object"),
        (GOOD_LINE.encode() + b"\n\xff\xfe\n", 2, "is not JSON"),
    ],
)
def test_red_on_a_line_that_is_no_record(tmp_path, text, line, reason):
    found, problems = read(tmp_path, text)
    assert [(problem["line"], reason in problem["reason"]) for problem in problems] == [(line, True)]
    judged = verdict([*found, record("a", "pass", 1, 1)], problems=problems)
    assert judged["verdict"] == "fail" and f"line {line}: " in judged["blockers"][0]["reason"]


def test_red_when_the_file_is_missing_or_lines_are(tmp_path):
    _found, problems = gate.read_evidence(tmp_path / "none.jsonl")
    assert problems[0]["line"] == 0 and "cannot be read" in problems[0]["reason"]
    found, problems = read(tmp_path, GOOD_LINE + "\n", lines=2)
    assert verdict(found, problems=problems)["verdict"] == "fail" and "holds 1 lines, but 2 were written" in problems[0]["reason"]


def test_all_hosts_must_pass_and_the_last_result_of_each_counts():
    good = [record("a", "pass", 1, 1, host="app1"), record("a", "pass", 1, 1, host="app2")]
    bad = record("a", "fail", 1, 0, host="app2", reason="down")
    assert verdict([*good, bad])["verdict"] == "fail"
    assert verdict([good[0], bad, good[1]])["verdict"] == "pass"  # repeated, and good at last
    judged = verdict([good[0], bad])
    assert [blocker["host"] for blocker in judged["blockers"]] == ["app2"] and judged["results"][0]["status"] == "fail"


def test_two_targets_on_one_host_both_count():
    idle = record("a", "fail", 200, 503, host="gateway", reason="503", detail={"target": "idle slot"})
    live = record("a", "pass", 200, 200, host="gateway", detail={"target": "gateway"})
    assert verdict([idle, live])["verdict"] == "fail"
    assert verdict([idle, live, record("a", "pass", 200, 200, host="gateway", detail={"target": "idle slot"})])["verdict"] == "pass"


def test_a_host_that_must_report_and_does_not():
    judged = verdict([record("a", "pass", 1, 1, host="app1")], hosts={"a": ["app1", "app2"]})
    assert judged["verdict"] == "fail" and judged["blockers"][0]["host"] == "app2" and judged["results"][0]["status"] == "no_evidence"


def test_not_applicable_from_the_contract():
    judged = verdict([], not_applicable={"a": "the service has no database"})
    assert judged["verdict"] == "pass" and judged["results"][0]["reason"] == "the service has no database"


@pytest.mark.parametrize("reason", ["", "  ", None, "TODO", "n/a", 5, True])
def test_not_applicable_needs_a_real_reason(reason):
    judged = verdict([record("a", "pass", 1, 1)], not_applicable={"a": reason})
    assert judged["verdict"] == "fail" and "needs a reason" in judged["blockers"][0]["reason"]


def test_not_applicable_of_an_unknown_id():
    judged = verdict([record("a", "pass", 1, 1)], not_applicable={"b": "there is no b"})
    assert judged["verdict"] == "fail" and "no catalogue knows" in judged["blockers"][0]["reason"]


def test_not_applicable_does_not_excuse_a_measured_failure():
    judged = verdict([record("a", "fail", 1, 0, reason="bad")], not_applicable={"a": "nobody cares about it"})
    assert judged["verdict"] == "fail" and judged["blockers"][0]["reason"] == "bad"


def test_declared_entries_need_a_statement_and_no_placeholder():
    catalogue = catalogue_of(entry("d", kind="declared"))
    assert verdict([], catalogue)["blockers"][0]["reason"] == "nobody stated it"
    assert verdict([record("d", "pass", None, "[name] - [tel]")], catalogue)["verdict"] == "fail"
    assert verdict([record("d", "pass", None, "Mara Lind, +49 30 901820")], catalogue)["verdict"] == "pass"


def test_manual_entries_are_listed_but_not_required():
    judged = verdict([record("a", "pass", 1, 1)], catalogue_of(entry("a"), entry("m", kind="manual")))
    assert judged["verdict"] == "pass" and judged["results"][1]["status"] == "not_run"


def test_what_is_not_built_is_not_run_with_its_reason_until_something_measures_it():
    catalogue = catalogue_of(entry("a"), entry("b", not_built="comes later"))
    judged = verdict([record("a", "pass", 1, 1)], catalogue)
    assert judged["verdict"] == "pass" and (judged["results"][1]["status"], judged["results"][1]["reason"]) == ("not_run", "comes later")
    assert verdict([record("a", "pass", 1, 1), record("b", "not_run", reason="x")], catalogue)["verdict"] == "fail"


def test_only_the_selected_phases_are_required_but_any_failure_blocks():
    catalogue = catalogue_of(entry("a"), entry("v", "verify"), entry("s", "security", measured_in="verify"))
    judged = verdict([record("v", "pass", 1, 1), record("s", "pass", 1, 1)], catalogue, ["verify"])
    assert judged["verdict"] == "pass" and judged["required"] == 2
    assert judged["results"][0]["reason"] == "phase prepare was not part of this run"
    assert verdict([record("v", "pass", 1, 1)], catalogue, ["verify"])["blockers"][0]["id"] == "s"
    broken = [record("v", "pass", 1, 1), record("s", "pass", 1, 1), record("a", "error", reason="unreachable")]
    assert verdict(broken, catalogue, ["verify"])["verdict"] == "fail"


def test_earlier_phases_count_by_their_run():
    catalogue = catalogue_of(entry("a"), entry("v", "verify"))
    judged = verdict([record("v", "pass", 1, 1)], catalogue, ["prepare", "verify"], earlier={"prepare": "run-1"})
    assert judged["verdict"] == "pass" and judged["results"][0]["reason"] == "unchanged since run-1"


def test_excused_phases_make_the_verdict_incomplete_never_pass():
    judged = verdict([], excused={"prepare": "check mode"})
    assert judged["verdict"] == "incomplete" and judged["results"][0]["status"] == "not_run"
    assert verdict([record("a", "fail", 1, 0, reason="bad")], excused={"prepare": "check mode"})["verdict"] == "fail"


def test_the_gates_own_id_is_not_required_by_itself():
    assert verdict([record("a", "pass", 1, 1)], catalogue_of(entry("a"), entry("g")), without=["g"])["verdict"] == "pass"


def test_a_gate_that_requires_nothing_is_red():
    assert verdict([], catalogue_of(entry("m", kind="manual")))["verdict"] == "fail"
    with pytest.raises(ValueError, match="no catalogue entry belongs to phase verfy"):
        verdict([], phases=["verfy"])


def test_nothing_drops_out_of_the_results():
    catalogue = catalogue_of(*(entry(f"{phase}.{number}", phase) for phase in ("prepare", "load") for number in range(5)))
    judged = verdict([], catalogue)
    assert [item["id"] for item in judged["results"]] == list(catalogue.entries) and sum(judged["counts"].values()) == 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-",
        "...",
        "…",
        "[name]",
        "[name] - [tel]",
        "<your name>",
        "{{ contact }}",
        "${NAME}",
        "TODO",
        "todo: ask Mara",
        "TBD",
        "tbc",
        "FIXME",
        "xxx",
        "+86 xxx xxxx",
        "changeme",
        "change-me",
        "change_this",
        "replace me",
        "placeholder",
        "example",
        "ops@example.com",
        "your-name",
        "n/a",
        "N/A",
        "none",
        "unknown",
        "name",
        "to be decided",
        "待定",
        "???",
        None,
        [],
        {},
        ["Mara", "TODO"],
        {"role": "technical", "reach": "[tel]"},
        False,
        float("nan"),
    ],
)
def test_placeholders(text):
    assert gate.is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "Mara Lind",
        "+49 30 901820",
        "example-service",
        "lark-service: web, worker",
        "hosts have no way to the internet",
        "the name is on the door",
        "nobody but the DBA has the key",
        "team lead, see the rota",
        5,
        0,
        True,
        ["web", "worker"],
        {"role": "technical", "reach": "ops@greenroom.io"},
        "none of the hosts has a screen",
        "latest test of 2026-11-20",
    ],
)
def test_statements(text):
    assert not gate.is_placeholder(text)


def test_descriptions_group_what_nobody_measured_and_keep_figures_once():
    catalogue = catalogue_of(entry("a"), entry("b"), entry("c"))
    lines = gate.describe_all(
        verdict([record("c", "fail", 2, 1, reason="expected at least 2, observed 1", host="app1")], catalogue)["blockers"]
    )
    assert len(lines) == 2 and lines[0].startswith("a, b: no check reported it. To do: ")
    assert lines[1].startswith("c on app1: expected at least 2, observed 1. To do: ")
    assert (
        "(expected 200, observed 503)"
        in gate.describe_all(verdict([record("a", "fail", 200, 503, reason="slot green is down")])["blockers"])[0]
    )


def test_what_no_catalogue_knows_is_shown_but_not_required_and_red_is_red():
    judged = verdict([record("a", "pass", 1, 1), record("z.extra", "pass", 1, 1)])
    assert judged["verdict"] == "pass" and judged["required"] == 1
    assert [result["status"] for result in judged["results"] if result["id"] == "z.extra"] == ["pass"]
    judged = verdict([record("a", "pass", 1, 1), record("z.extra", "fail", 1, 2, reason="two")])
    assert judged["verdict"] == "fail" and [blocker["id"] for blocker in judged["blockers"]] == ["z.extra"]
