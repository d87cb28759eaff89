"""Each alert fires, by promtool: over its threshold and after its time, and neither just under it nor before."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import contract
from ansible.module_utils.greenroom.monitoring import rules

ROOT = Path(__file__).resolve().parents[2]
DATA = yaml.safe_load((ROOT / "roles/monitoring_server/files/alerts.yml").read_text())
CASES = yaml.safe_load((ROOT / "tests/integration/alert_cases.yml").read_text())
ALERTS = [alert["alert"] for alert in DATA["alerts"]]
GROUPS = {"gateway": ["g"], "app": ["a"], "database": ["d"], "broker": ["d"], "monitoring": ["m"]}


@pytest.fixture(scope="module")
def service():
    """A contract that has everything a rule can be about."""
    given = yaml.safe_load((ROOT / "inventories/staging/group_vars/all/service.yml").read_text())["service"]
    found = contract.normalized(given)
    found["monitoring"]["pool"] = {"in_use": "pool_in_use", "max": 10}
    found.setdefault("backup", {"limits": {"rpo_s": 3600}})
    found["guard"] = {"enabled": True}
    return found


@pytest.fixture(scope="module")
def rule_file(service, tmp_path_factory):
    file = tmp_path_factory.mktemp("rules") / "rules.yml"
    file.write_text(yaml.safe_dump(rules.alert_rules(DATA, service, GROUPS)))
    return file


def promtool(*argv, cwd=None):
    return subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False, cwd=cwd)


def seconds(text):
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def firing(name, at, series, count):
    """A promtool test: how many alerts of the name fire at that time."""
    samples = [{"labels": "{}", "value": count}] if count else []
    expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    lines = [{"series": one[: one.rindex(" ")], "values": one[one.rindex(" ") + 1 :]} for one in series]
    return {"interval": "15s", "input_series": lines, "promql_expr_test": [{"expr": expression, "eval_time": at, "exp_samples": samples}]}


def test_every_alert_has_a_case():
    assert sorted(CASES) == sorted(ALERTS)


def test_the_rule_file_is_one(rule_file):
    done = promtool("check", "rules", "--lint-fatal", str(rule_file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS) + len(DATA['records'])} rules found" in done.stdout


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_and_does_not_fire_just_under(name, rule_file, service):
    case, alert = CASES[name], next(one for one in DATA["alerts"] if one["alert"] == name)
    assert case["quiet"], f"{name} has no series under which it is quiet"
    # An alert is pending for at least its `for` and one evaluation; what only just held a moment ago must not fire.
    before = f"{seconds(alert['for']) - 15}s"
    tests = [firing(name, case["at"], case["fires"], 1), firing(name, before, case["fires"], 0)]
    tests += [firing(name, case["at"], series, 0) for series in case["quiet"]]
    file = rule_file.parent / f"{name}.yml"
    file.write_text(yaml.safe_dump({"rule_files": [rule_file.name], "evaluation_interval": "15s", "tests": tests}))
    done = promtool("test", "rules", file.name, cwd=rule_file.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_metric_fires_where_silence_would_be_a_fault(rule_file):
    names = ["BackupNotWatched", "GuardDeadlocked", "HostMetricsStale"]
    tests = [firing(name, "12m", ["other 1x60"], 1) for name in names]
    file = rule_file.parent / "absent.yml"
    file.write_text(yaml.safe_dump({"rule_files": [rule_file.name], "evaluation_interval": "15s", "tests": tests}))
    done = promtool("test", "rules", file.name, cwd=rule_file.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_thresholds_come_from_the_contract(service):
    service = {**service, "monitoring": {**service["monitoring"], "alerts": {**service["monitoring"]["alerts"], "cpu_percent": 42}}}
    found = {rule.get("alert"): rule for rule in rules.alert_rules(DATA, service, GROUPS)["groups"][1]["rules"]}
    assert found["HostCpuHigh"]["expr"] == "host:cpu_busy:percent > 42"


def test_what_an_environment_does_not_have_is_not_ruled(service):
    bare = {key: value for key, value in service.items() if key not in ("dependencies", "backup", "metrics", "guard")}
    bare["monitoring"] = {**service["monitoring"], "pool": None}
    names = {rule.get("alert") for rule in rules.alert_rules(DATA, bare, GROUPS)["groups"][1]["rules"]}
    assert {"HostDown", "ErrorRateHigh"} <= names
    assert not names & {"DatabaseDown", "BrokerDown", "BackupFailed", "ServiceTargetDown", "PoolExhausted", "GuardDeadlocked"}


@pytest.mark.parametrize(
    ("change", "text"),
    [({"expr": "x > @nothing@"}, "no threshold nothing"), ({"severity": "loud"}, "severity 'loud'"), ({"typo": 1}, "unknown field typo"),
     ({"needs": ["databse"]}, "needs databse")],
)  # fmt: skip
def test_a_rule_with_a_mistake_is_refused(service, change, text):
    with pytest.raises(rules.RuleError, match=text):
        rules.alert_rules({"records": [], "alerts": [{**DATA["alerts"][0], **change}]}, service, GROUPS)


def test_gaps_between_acceptance_and_alerts_are_named(service):
    gaps = {gap["quantity"]: (gap["accepted"], gap["alert"]) for gap in rules.threshold_gaps(service)}
    assert gaps == {
        "error_rate_percent": (0.1, 1), "cpu_percent": (70, 80), "memory_percent": (80, 85),
        "error_rate_percent after a rollback": (0.1, 1), "p95_ms after a rollback": (500, 1000),
    }  # fmt: skip


def test_every_alert_has_its_section():
    page = (ROOT / "docs/alerts.md").read_text()
    assert sorted(re.findall(r"^## (\w+)$", page, re.M)) == sorted(ALERTS)
