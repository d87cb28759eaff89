"""The judge of a service's own tests: what its reports say, what counts as proven, what reaches the tests' process."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import test_reports as reports_of
from ansible.module_utils.greenroom import test_run as subject
from ansible.module_utils.greenroom.masking import masked, secret_parts

GOOD = b"""<?xml version="1.0"?><testsuites><testsuite name="pytest" tests="2" failures="0" errors="0" skipped="0">
<testcase classname="tests.test_a" name="test_one" time="0.25"/><testcase classname="tests.test_a" name="test_two" time="0.5"/>
</testsuite></testsuites>"""
MIXED = b"""<testsuites><testsuite name="pytest" tests="99" failures="0" errors="0" skipped="0">
<testcase classname="t" name="passes" time="nan"/>
<testcase classname="t" name="fails"><failure message="assert 1 == 2">trace</failure></testcase>
<testcase classname="t" name="breaks"><error message="fixture"/></testcase>
<testcase classname="t" name="waits"><skipped type="pytest.skip" message="no  server\n here"/></testcase>
<testcase classname="t" name="twice"><failure message="a"/></testcase><testcase classname="t" name="twice"><error message="b"/></testcase>
</testsuite></testsuites>"""
ENDED_WELL = {"status": 0, "seconds": 1.5, "limit_s": 60, "timed_out": False}


def coverage(files):
    summaries = {name: {"summary": {"num_statements": total, "covered_lines": hit}} for name, (total, hit) in files.items()}
    return json.dumps({"files": summaries}).encode()


# --- reports ---


def test_a_report_is_counted_case_by_case_and_not_by_what_it_claims():
    assert reports_of.parse_junit(GOOD) == {
        "tests": 2, "passed": 2, "failures": 0, "errors": 0, "skipped": 0, "seconds": 0.75, "failed": [], "skips": [],
    }  # fmt: skip
    found = reports_of.parse_junit(MIXED)
    assert {key: found[key] for key in ("tests", "passed", "failures", "errors", "skipped")} == {
        "tests": 5, "passed": 1, "failures": 1, "errors": 2, "skipped": 1,
    }  # fmt: skip
    assert found["failed"] == ["t::fails", "t::breaks", "t::twice"]
    assert found["skips"] == ["t::waits (no server here)"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (GOOD[:-20], "no whole XML"),
        (b"", "no whole XML"),
        (b"<html/>", "root is html"),
        (b'<!DOCTYPE a [<!ENTITY b "cc">]><testsuites>&b;</testsuites>', "entities"),
    ],
)
def test_a_cut_or_strange_report_is_no_report(data, why):
    with pytest.raises(reports_of.ReportError, match=why):
        reports_of.parse_junit(data)


def test_coverage_counts_the_lines_of_the_package_only():
    data = coverage({
        "src/demo/__init__.py": (10, 10), "src/demo/api.py": (30, 14),
        "tests/unit/test_a.py": (500, 500), "src/demo/tests/test_b.py": (50, 50),
        "/opt/x/venv/lib/python3.11/site-packages/other/demo_tools.py": (100, 100),
    })  # fmt: skip
    assert reports_of.parse_coverage(data, "demo") == {"percent": 60.0, "lines": 40, "covered": 24, "files": 2}


def test_coverage_of_a_single_module_and_of_a_namespaced_package():
    assert reports_of.parse_coverage(coverage({"src/demo.py": (4, 1)}), "demo")["percent"] == 25.0
    assert reports_of.parse_coverage(coverage({"src/org/demo/a.py": (4, 1), "src/org/x/a.py": (9, 9)}), "org.demo")["lines"] == 4


def test_cobertura_reports_are_read_too():
    data = b"""<coverage line-rate="1"><sources><source>/opt/x/src/demo</source></sources><packages><package><classes>
    <class filename="a.py"><lines><line number="1" hits="3"/><line number="2" hits="0"/></lines></class>
    <class filename="a.py"><lines><line number="2" hits="1"/><line number="3" hits="0"/></lines></class>
    </classes></package></packages></coverage>"""
    assert reports_of.parse_coverage(data, "demo") == {"percent": 66.67, "lines": 3, "covered": 2, "files": 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (coverage({"src/other/a.py": (10, 10)}), "no line of the package demo"),
        (coverage({"src/demo/a.py": (0, 0)}), "no line of the package demo"),
        (coverage({"src/demo/a.py": (10, 11)}), "11 of 10"),
        (b'{"totals": {"percent_covered": 100}}', "no coverage report"),
        (b'{"files": {"demo/a.py": ', "no coverage report"),
        (b"<coverage><sources/>", "no whole XML"),
        (b"<report/>", "root is report"),
    ],
)
def test_a_coverage_report_without_figures_of_the_package_proves_nothing(data, why):
    with pytest.raises(reports_of.ReportError, match=why):
        reports_of.parse_coverage(data, "demo")


def test_a_report_is_read_only_from_a_plain_file_of_sane_size(tmp_path, monkeypatch):
    secret = tmp_path / "shadow"
    secret.write_text("root")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(reports_of.ReportError, match="cannot be read"):
        reports_of.read_report(tmp_path / "link")
    with pytest.raises(reports_of.ReportError, match="no plain file"):
        reports_of.read_report(tmp_path / "pipe")
    with pytest.raises(reports_of.ReportError, match="not written"):
        reports_of.read_report(tmp_path / "nothing")
    monkeypatch.setattr(reports_of, "REPORT_LIMIT", 3)
    with pytest.raises(reports_of.ReportError, match="4 bytes"):
        reports_of.read_report(secret)


# --- verdicts ---


def test_a_suite_passes_with_figures():
    made = subject.judge_tests("verify.unit.pass", reports_of.parse_junit(GOOD), ENDED_WELL)
    assert made["status"] == "pass"
    assert made["observed"] == "2 tests, 2 passed, 0 failures, 0 errors, 0 skipped"
    assert made["detail"]["samples"] == 2
    assert made["duration_ms"] == 1500.0


@pytest.mark.parametrize(
    ("junit", "outcome", "why"),
    [
        (MIXED, {"status": 1}, "failed: t::fails, t::breaks, t::twice; 1 skipped, 0 allowed: t::waits"),
        (b"<testsuites/>", {"status": 0}, "no test ran"),
        (GOOD, {"status": 1}, "exit status 1 although its report has no failure"),
        (GOOD, {"status": 143, "timed_out": True}, "time limit of 60 s"),
        (GOOD, {"status": 1, "killed": "its process was killed"}, "was killed"),
    ],
)
def test_a_suite_is_red_when_anything_says_so(junit, outcome, why):
    made = subject.judge_tests("verify.unit.pass", reports_of.parse_junit(junit), {**ENDED_WELL, **outcome})
    assert made["status"] == "fail"
    assert why in made["reason"]


def test_a_missing_report_is_red_even_with_exit_status_0():
    made = subject.judge_tests("verify.unit.pass", None, ENDED_WELL, missing="it was not written")
    assert made["status"] == "fail"
    assert "no test report: it was not written" in made["reason"]


def test_skipped_tests_are_allowed_only_up_to_the_number_stated():
    one = reports_of.parse_junit(b'<testsuite><testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite>')
    assert subject.judge_tests("x.y", one, ENDED_WELL, allow_skipped=1)["status"] == "pass"
    assert subject.judge_tests("x.y", one, ENDED_WELL)["status"] == "fail"


def test_many_failures_are_named_in_short():
    cases = b"".join(b'<testcase name="t%d"><failure/></testcase>' % number for number in range(9))
    made = subject.judge_tests("x.y", reports_of.parse_junit(b"<testsuite>" + cases + b"</testsuite>"), {**ENDED_WELL, "status": 1})
    assert made["reason"] == "failed: t0, t1, t2, t3, t4 and 4 more"


def test_coverage_is_judged_by_its_number():
    found = {"percent": 59.99, "lines": 10000, "covered": 5999, "files": 3}
    assert subject.judge_coverage("verify.unit.coverage", {**found, "percent": 60.0}, 60)["status"] == "pass"
    low = subject.judge_coverage("verify.unit.coverage", found, 60)
    assert (low["status"], low["expected"], low["observed"], low["unit"]) == ("fail", 60, 59.99, "%")
    assert subject.judge_coverage("verify.unit.coverage", {**found, "percent": float("nan")}, 60)["status"] == "fail"
    assert subject.judge_coverage("verify.unit.coverage", None, 60, missing="gone")["status"] == "no_evidence"
    assert "no test ran" in subject.judge_coverage("verify.unit.coverage", {**found, "percent": 90.0}, 60, tests_ran=False)["reason"]


# --- what reaches the tests ---


def test_the_environment_is_made_for_the_tests_and_carries_the_report_paths(monkeypatch):
    monkeypatch.setenv("CALLERS_OWN", "must not get in")
    env = subject.suite_environment({"package": "demo"}, "/opt/t", "/opt/t/reports/unit", {"PORT": 1}, {"KEY": "v w$"})
    assert env["PORT"] == "1" and env["KEY"] == "v w$" and "CALLERS_OWN" not in env
    assert env["PATH"].startswith("/opt/t/venv/bin:")
    assert shlex.split(env["PYTEST_ADDOPTS"]) == [
        "-p", "no:cacheprovider", "--junitxml=/opt/t/reports/unit/junit.xml",
        "--cov=demo", "--cov-report=json:/opt/t/reports/unit/coverage.json",
    ]  # fmt: skip
    assert "--cov" not in subject.suite_environment({}, "/opt/t", "/r", {}, {})["PYTEST_ADDOPTS"]


def test_the_service_cannot_move_its_reports_elsewhere():
    env = subject.suite_environment({}, "/opt/t", "/r", {"PYTEST_ADDOPTS": "--junitxml=/x", "PATH": "/evil"}, {"GREENROOM_JUNIT": "/x"})
    assert "/x" not in env["PYTEST_ADDOPTS"] and env["GREENROOM_JUNIT"] == "/r/junit.xml" and env["PATH"].startswith("/opt/t")


def test_the_unit_is_limited_and_hardened_and_its_arguments_hold_no_environment():
    argv = subject.unit_command("u", "demo", "/opt/t", "/opt/t/reports/unit", 60, memory_mb=512, hidden=["/etc/demo"])
    for wanted in ("User=demo", "RuntimeMaxSec=60", "MemoryMax=512M", "ReadWritePaths=/opt/t/reports/unit", "InaccessiblePaths=-/etc/demo",
                   "ProtectSystem=strict", "NoNewPrivileges=yes", "WorkingDirectory=/opt/t/src"):  # fmt: skip
        assert f"--property={wanted}" in argv
    assert not any("env" in part.lower() and "=" in part and "setenv" in part for part in argv)


def run_launcher(argv, env, limit_s=30):
    whole = subject.unit_command("u", "demo", "/t", "/r", 60, memory_mb=512)
    program = whole[whole.index("/usr/bin/python3") :]
    return subject.run_process(program, {"env": env, "argv": argv}, limit_s)


def test_values_arrive_byte_for_byte_and_standard_input_is_empty():
    value = "a b\"'$HOME#=\\ü\n"
    code = "import os, sys; print(repr((os.environ['V'], sys.stdin.read(), sorted(set(os.environ) - {'LC_CTYPE'}))))"
    outcome = run_launcher([sys.executable, "-I", "-c", code], {"V": value})
    assert outcome["status"] == 0
    assert outcome["output"].strip() == repr((value, "", ["V"]))


def test_a_program_that_is_not_there_is_named():
    outcome = run_launcher(["no-such-program"], {"PATH": "/usr/bin"})
    assert outcome["status"] == 1 and "cannot start no-such-program" in outcome["output"]


def test_a_process_beyond_the_last_limit_is_ended():
    outcome = run_launcher([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"], {}, limit_s=2)
    assert outcome["timed_out"] and outcome["status"] != 0 and outcome["seconds"] < 20


def test_secrets_and_the_passwords_inside_urls_are_hidden():
    parts = secret_parts(["postgresql://u:p%40ssw0rd-long@h/db", "short", "another-secret"])
    assert masked("p@ssw0rd-long p%40ssw0rd-long another-secret short", parts) == "*** *** *** short"
    assert secret_parts(["http://[broken"]) == ["http://[broken"]


def test_real_pytest_reports_are_judged_and_kept_without_secrets(tmp_path):
    (tmp_path / "test_demo.py").write_text(
        "import os, pytest\ndef test_good():\n    pass\ndef test_bad():\n    raise AssertionError(os.environ['DATABASE_URL'])\n"
        "@pytest.mark.xfail\ndef test_known():\n    assert 0\n"
    )
    reports = tmp_path / "reports" / "unit"
    reports.mkdir(parents=True)
    secrets = {"DATABASE_URL": "postgresql://u:made-for-the-run@h/db"}
    env = subject.suite_environment({}, "/nowhere", str(reports), {}, secrets)
    outcome = run_launcher([sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), str(tmp_path)], env)
    suite = {"name": "unit", "id": "verify.unit.pass", "coverage_id": "verify.unit.coverage", "coverage_min": 60, "package": "demo"}
    result = subject.judged(suite, {**outcome, "limit_s": 30}, reports, secret_parts(secrets.values()))
    tests, lines = result["evidence"]
    assert tests["observed"] == "3 tests, 1 passed, 1 failures, 0 errors, 1 skipped"
    assert "test_demo::test_bad" in tests["reason"] and "test_known" in tests["reason"]
    assert lines["status"] == "no_evidence"
    assert result["output"]
    kept = "".join(Path(path).read_text() for path in result["files"])
    assert "test_bad" in kept and "made-for-the-run" not in kept + json.dumps(result)


def test_a_suite_that_cannot_be_run_leaves_error_records(tmp_path):
    suite = {"name": "unit", "command": "pytest 'no end", "id": "verify.unit.pass", "limit_s": 5, "coverage_id": "verify.unit.coverage",
             "coverage_min": 60, "package": "demo"}  # fmt: skip
    job = {"run_id": "r", "user": "nobody", "directory": "/t", "reports": str(tmp_path / "reports"), "env": {}, "secrets": {},
           "memory_mb": 64, "hidden": []}  # fmt: skip
    (result,) = subject.run_suites([suite], job)
    assert [item["status"] for item in result["evidence"]] == ["error", "error"]
    assert "No closing quotation" in result["evidence"][0]["reason"]


def test_reports_of_an_earlier_run_are_gone_before_the_suites_run(tmp_path):
    earlier = tmp_path / "reports" / "unit.junit.xml"
    earlier.parent.mkdir()
    earlier.write_text("<testsuite/>")
    job = {"run_id": "r", "reports": str(earlier.parent), "secrets": {}}
    assert subject.run_suites([], job) == [] and not earlier.exists() and earlier.parent.exists()
