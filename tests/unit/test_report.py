"""Reports: verdict and sentence, escaping, completeness, what changed, JUnit, rendering again."""

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible.module_utils.greenroom import render, report
from ansible.module_utils.greenroom.records import record

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE, FAULTS = report.load_catalogue(["examples/lark-service/catalogue.yml"])
PHASES = ["entry", "prepare", "release", "database", "configure", "verify", "close"]
NASTY = "<script>alert(1)</script> & \"quoted\" 'x' | `code` *bold* \x07 {{ 7 * 7 }}"


def run_of(**changes):
    facts = {"service": "tiny", "version": "1.2.0", "environment": "test"}
    times = [{"name": name, "start_s": 10.0 * number, "seconds": 10.0} for number, name in enumerate(PHASES)]
    return {
        "run_id": "20261120T091500Z-a1b2c3",
        "playbook": "deploy.yml",
        "started": "2026-11-20T09:15:00.000Z",
        "duration_s": 70.0,
        "facts": facts,
        "planned": PHASES,
        "selected": PHASES,
        "phases": times,
        "failures": [],
        "errors": [],
        "gated": [],
        "exit_status": 0,
        "check": False,
        "user": "mara",
        "control_node": "build-3",
        "tags": ["all"],
        "catalogues": ["examples/lark-service/catalogue.yml"],
    } | changes


def passes(phases=("prepare", "release", "database", "configure", "verify"), without=()):
    return [
        record(entry.id, "pass", "as it should be", "as it should be", host="app1", duration_ms=12.5, started="2026-11-20T09:15:01.000Z")
        for entry in CATALOGUE
        if entry.gate_phase in phases and entry.kind != "manual" and not entry.not_built and entry.id not in without
    ]


def build(run=None, evidence=None, problems=(), previous=None):
    made = report.build(run or run_of(), passes() if evidence is None else evidence, list(problems), CATALOGUE, previous)
    return json.loads(json.dumps(made))


def test_the_catalogues_load():
    assert not FAULTS


def test_report_json_has_the_agreed_keys():
    made = build()
    agreed = {"run_id", "playbook", "service", "version", "verdict", "started", "finished", "duration_s", "phases", "counts", "evidence"}
    assert agreed <= set(made)
    assert {"name", "seconds", "verdict"} <= set(made["phases"][0]) and made["counts"]["pass"] == made["passed"] == made["required"]


def test_a_passed_run_says_what_was_proven():
    made = build()
    count = made["required"]
    assert (made["verdict"], made["exit_status"]) == ("pass", 0) and count > 60
    assert made["sentence"] == f"tiny 1.2.0 on test is proven. {count} of {count} required checks were measured and passed."


def test_every_entry_of_the_catalogue_is_in_every_report_whatever_happened():
    for made in (build(), build(evidence=[]), build(run_of(phases=[], exit_status=3), [])):
        assert [item["id"] for item in made["checklist"]] == list(CATALOGUE.entries)
        page, text, xml = render.html(made), render.markdown(made), render.junit(made)
        for name in CATALOGUE.entries:
            assert f">{name}<" in page and name in text.replace("\\", "") and f'name="{name}"' in xml
        assert all(item["status"] == "pass" or item["reason"] for item in made["checklist"])


def test_nothing_is_ticked_without_evidence():
    made = build(evidence=[])
    assert made["counts"]["pass"] == 0 and made["verdict"] == "fail" and made["exit_status"] == 2
    assert 'class="pill s-pass"' not in render.html(made) and "| passed |" not in render.markdown(made)


def test_one_missing_record_turns_a_green_run_red():
    made = build(evidence=passes(without=["db.connect"]))
    assert (made["verdict"], made["exit_status"]) == ("fail", 2) and [item["id"] for item in made["blockers"]] == ["db.connect"]
    assert {phase["name"]: phase["verdict"] for phase in made["phases"]}["database"] == "fail"
    assert "failed in phase database, 1 blocker" in made["sentence"]


def test_a_problem_in_the_evidence_file_turns_a_green_run_red():
    made = build(problems=[{"line": 7, "id": None, "reason": "is not JSON"}])
    assert made["verdict"] == "fail" and "line 7" in render.html(made)


def test_greenrooms_own_errors_turn_a_green_run_red():
    made = build(run_of(errors=["evidence.jsonl: No space left on device"]))
    assert (made["verdict"], made["exit_status"]) == ("fail", 2) and "No space left on device" in render.html(made)


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [
        (3, "refused", "refused, 1 blocker. Nothing was touched"),
        (75, "busy", "somebody else holds the lease"),
        (4, "person_needed", "A person has to decide"),
        (2, "fail", "Users are where they were"),
    ],
)
def test_sentences_of_runs_that_did_not_pass(status, verdict, words):
    failure = {"phase": "entry", "host": "one", "task": "Check", "reason": "no", "where": "x.yml:1", "in_evidence": False}
    made = build(run_of(exit_status=status, phases=run_of()["phases"][:1], failures=[failure]), [])
    assert made["verdict"] == verdict and words in made["sentence"]
    assert made["blockers"] == [] and all(item["status"] == "not_run" for item in made["checklist"])
    assert [phase["verdict"] for phase in made["phases"]] == ["fail"] + ["not_run"] * 6


def test_users_are_where_the_run_says():
    run = run_of(exit_status=2)
    run["facts"]["users_on"] = "6-1.1.0"
    assert build(run, []).get("sentence").endswith("Users are on 6-1.1.0.")


def test_a_run_that_stopped_blames_only_what_failed():
    stopped = run_of(exit_status=2, phases=run_of()["phases"][:4], gated=[["prepare"]])
    evidence = [*passes(("prepare", "release")), record("db.connect", "fail", True, False, reason="refused", host="app2")]
    made = build(stopped, evidence)
    assert [item["id"] for item in made["blockers"]] == ["db.connect"]
    reasons = {item["id"]: item["reason"] for item in made["checklist"]}
    assert reasons["db.migration.head"] == "the run stopped in this phase before it was measured"
    assert reasons["verify.health.http"] == "the run stopped in phase database, before it"


def test_a_phase_that_ended_is_not_excused_by_a_later_stop():
    stopped = run_of(exit_status=2, phases=run_of()["phases"][:4])
    made = build(stopped, passes(("prepare", "release"), without=["prep.tool.git"]))
    assert [item["id"] for item in made["blockers"]] == ["prep.tool.git"]


def test_a_gates_own_record_is_no_second_blocker():
    judged = record("prep.gate", "fail", "x", {"blockers": 1}, reason="1 blocker", detail={"gate": True})
    failed = record("prep.tool.git", "fail", True, False, reason="no git")
    others = passes(without=["prep.gate", "prep.tool.git"])
    assert [item["id"] for item in build(run_of(exit_status=2), [*others, failed, judged])["blockers"]] == ["prep.tool.git"]
    fixed = record("prep.tool.git", "pass", True, True)
    assert [item["id"] for item in build(run_of(exit_status=2), [*others, failed, judged, fixed])["blockers"]] == ["prep.gate"]


def test_a_no_op_lists_what_was_not_measured_again():
    run = run_of()
    run["facts"]["no_op_of"] = "20261119T080000Z-ffffff"
    made = build(run, passes(("prepare", "verify")))
    assert made["verdict"] == "pass" and "nothing to do, it is live since 20261119T080000Z-ffffff" in made["sentence"]
    by_name = {phase["name"]: phase for phase in made["phases"]}
    for name in ("release", "database", "configure"):
        assert by_name[name]["verdict"] == "not_run" and by_name[name]["reason"] == "unchanged since 20261119T080000Z-ffffff"
    assert build(run, passes(("prepare",)))["verdict"] == "fail"  # verify has to be measured again


def test_a_partial_run_says_for_what_it_holds():
    made = build(
        run_of(selected=["entry", "verify", "close"], phases=[run_of()["phases"][number] for number in (0, 5, 6)]), passes(("verify",))
    )
    assert made["verdict"] == "pass" and "is proven, for verify only." in made["sentence"]
    assert {phase["name"]: phase["verdict"] for phase in made["phases"]}["release"] == "not_run"


def test_a_run_for_a_part_of_the_fleet_proves_no_phase():
    run = run_of(selected=["entry", "prepare", "close"], phases=[run_of()["phases"][number] for number in (0, 1, 6)])
    run["facts"]["partial"] = "left out by --limit: data"
    some = passes(("prepare",), without=("prep.db.version",))
    made = build(run, some)
    assert (made["verdict"], made["exit_status"]) == ("partial", 0) and "left out by --limit: data" in made["sentence"]
    assert {phase["name"]: phase["verdict"] for phase in made["phases"]}["prepare"] == "incomplete"
    assert build(run, [*some, record("prep.db.version", "fail", 13, 11, reason="too old")])["verdict"] == "fail"


def test_check_mode_never_passes():
    made = build(run_of(check=True), [])
    assert (made["verdict"], made["exit_status"]) == ("checked", 0) and "proves nothing" in made["sentence"]
    assert build(run_of(check=True), [record("prep.server.cpu", "fail", 2, 1, reason="small")])["verdict"] == "fail"


class Page(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "action", "data", "srcset", "poster", "background")]
        assert not [key for key, _value in attrs if key.startswith("on")]

    def handle_data(self, data):
        self.text += data


def nasty_report():
    evidence = passes(without=["db.connect"])
    bad = record(
        "db.connect", "fail", NASTY, {NASTY: [NASTY]}, reason=NASTY, host=NASTY, unit=NASTY, detail={"target": NASTY, "raw": NASTY}
    )
    failure = {"phase": "database", "host": NASTY, "task": NASTY, "reason": NASTY, "where": NASTY, "in_evidence": False}
    run = run_of(exit_status=2, failures=[failure], errors=[NASTY], user=NASTY, tags=[NASTY], gated=[["database"]])
    run["facts"] = dict.fromkeys(("service", "version", "environment", "release", "commit", "reason", "approved_by"), NASTY)
    before = build(evidence=passes())
    return build(run, [*evidence, bad], previous=before)


def test_html_escapes_everything_that_came_from_outside():
    page = Page(render.html(nasty_report()))
    clean = Page(render.html(build()))
    assert page.tags.count("script") == clean.tags.count("script") == 1
    assert page.text.count("<script>alert(1)</script>") > 12 and "{{ 7 * 7 }}" in page.text and "b" not in page.tags[:5]


def test_html_needs_nothing_from_outside():
    text = render.html(nasty_report())
    page = Page(text)
    assert page.addresses == [] and not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import|//", text[text.index("<style>") : text.index("</style>")])
    assert "import" not in text[text.index("<script>\n") :] and "fetch" not in text[text.index("<script>\n") :]


def test_plots_of_the_run_are_drawn_and_escaped():
    curve = {"title": NASTY, "unit": "ms", "series": [{"name": NASTY, "points": [[0, 1], [1, 2]]}]}
    run = run_of()
    run["facts"] = run["facts"] | {"plots": [curve, "no plot", {"title": "x"}]}
    page = render.html(build(run))
    assert page.count('<svg class="plot"') == 1 and "<polyline" in page and "<script>alert" not in page and "<h2>Plots</h2>" in page
    assert "<h2>Plots</h2>" not in render.html(build())


def test_html_says_verdict_and_sentence_first():
    made = build()
    text = Page(render.html(made)).text
    assert text.index("Passed") < text.index(made["sentence"]) < text.index("Timeline") < text.index("Checklist")


def test_markdown_keeps_its_tables():
    text = render.markdown(nasty_report())
    for line in text.splitlines():
        if line.startswith("| ") and "requirement" not in line and "phase | seconds" not in line:
            assert len(re.findall(r"(?<!\\)\|", line)) == 6, line
    assert "<script>" not in text


def test_junit_is_xml_with_the_same_counts():
    made = nasty_report()
    root = ElementTree.fromstring(render.junit(made))
    assert len(root.findall("testsuite[@name!='run']/testcase")) == len(CATALOGUE)
    assert len(root.findall(".//failure")) == made["counts"]["fail"] + made["counts"]["no_evidence"] == 1
    assert len(root.findall(".//skipped")) == made["counts"]["not_run"] + made["counts"]["not_applicable"]
    assert len(root.findall("testsuite[@name='run']/testcase/error")) == 2  # the failed task, and Greenroom's own error


def test_what_changed_since_the_last_run():
    before = build(evidence=[*passes(without=["verify.health.latency"]), record("verify.health.latency", "pass", 100, 20.0, unit="ms")])
    now = build(
        run_of(run_id="20261120T101500Z-a1b2c3", exit_status=2, gated=[["verify"]]),
        [
            *passes(without=["verify.health.latency", "db.connect", "release.version"]),
            record("verify.health.latency", "pass", 100, 40.0),
            record("release.version", "pass", "1.3.0", "1.3.0"),
        ],
        previous=before,
    )["changes"]
    assert [(item["id"], item["before"], item["now"]) for item in now["statuses"]] == [("db.connect", "pass", "no_evidence")]
    assert [(item["id"], item["before"], item["now"]) for item in now["values"]] == [
        ("release.version", "as it should be", "1.3.0"),
        ("verify.health.latency", 20.0, 40.0),
    ]
    assert now["verdict"] == ["pass", "fail"]


def test_small_drifts_are_no_change():
    before = build(evidence=[*passes(without=["verify.health.latency"]), record("verify.health.latency", "pass", 100, 20.0)])
    now = build(evidence=[*passes(without=["verify.health.latency"]), record("verify.health.latency", "pass", 100, 22.0)], previous=before)
    assert now["changes"]["values"] == []


def save_run(folder, run_id, **changes):
    run_dir = folder / run_id
    run_dir.mkdir()
    evidence = passes()
    (run_dir / "evidence.jsonl").write_text("".join(json.dumps(item) + "\n" for item in evidence))
    (run_dir / "run.json").write_text(json.dumps(run_of(run_id=run_id, evidence_lines=len(evidence), **changes)))
    return report.write(run_dir)


def test_the_previous_run_is_of_the_same_kind(tmp_path):
    save_run(tmp_path, "20261101T000000Z-000001")
    save_run(tmp_path, "20261102T000000Z-000002", playbook="restart.yml")
    save_run(tmp_path, "20261103T000000Z-000003", facts={"service": "tiny", "environment": "other"})
    save_run(tmp_path, "20261104T000000Z-000004", check=True)
    save_run(tmp_path, "20261106T000000Z-000006")
    (tmp_path / "20261104T120000Z-00000a").mkdir()
    (tmp_path / "20261104T120000Z-00000a" / "report.json").write_text("{half")
    assert save_run(tmp_path, "20261105T000000Z-000005")["changes"]["run_id"] == "20261101T000000Z-000001"


def test_writing_is_complete_and_leaves_no_temporary_files(tmp_path):
    made = save_run(tmp_path, "20261101T000000Z-000001")
    run_dir = tmp_path / made["run_id"]
    names = {"evidence.jsonl", "run.json", "report.json", "report.md", "report.html", "junit.xml"}
    assert {path.name for path in run_dir.iterdir()} == names
    assert json.loads((run_dir / "report.json").read_text())["evidence"][0]["title"]
    assert made["evidence_sha256"] in (run_dir / "report.html").read_text()


def test_evidence_that_was_removed_after_the_run_shows(tmp_path):
    made = save_run(tmp_path, "20261101T000000Z-000001")
    path = tmp_path / made["run_id"] / "evidence.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert report.write(path.parent)["verdict"] == "fail"


def test_scripts_report_renders_again(tmp_path):
    made = save_run(tmp_path, "20261101T000000Z-000001")
    page = tmp_path / made["run_id"] / "report.html"
    page.unlink()
    environment = os.environ | {"GREENROOM_REPORTS": str(tmp_path)}
    done = subprocess.run([ROOT / "scripts" / "report", made["run_id"]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and page.exists() and made["sentence"] in done.stdout
    done = subprocess.run([ROOT / "scripts" / "report", "nothing"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no report can be made" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, None, "\N{EN DASH}"),
        (True, None, "yes"),
        (False, None, "no"),
        (14.823, "ms", "14.82 ms"),
        (0, None, "0"),
        (1234567, None, "1,234,567"),
        (["a", "b"], None, "a, b"),
        ([], None, "none"),
        ({"a": 1, "b": True}, None, "a: 1, b: yes"),
        ({"a": {"b": 1}}, None, '{"a": {"b": 1}}'),
    ],
)
def test_show(value, unit, text):
    assert render.show(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "\N{EN DASH}"), (0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (245, "4 min 05 s"), (3725, "1 h 02 min")],
)
def test_duration(seconds, text):
    assert render.duration(seconds) == text


def test_the_timeline_fits_its_frame():
    for made in (build(), build(run_of(phases=[], duration_s=0.0, exit_status=3), []), build(run_of(duration_s=0.5))):
        drawn = render.timeline(made)
        for bar in drawn["bars"]:
            assert bar["x"] is None or bar["x"] + bar["width"] <= drawn["right"] + 2.1
        assert 1 <= len(drawn["ticks"]) <= 9
