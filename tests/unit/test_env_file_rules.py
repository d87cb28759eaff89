"""What an environment must satisfy: each rule is seen red on a real fault, and no value is ever told."""

import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import env_check, env_file, env_rules, markers

DECLARED = [
    {"key": "LOG_LEVEL", "type": "enum", "choices": ["DEBUG", "INFO"], "value": "INFO"},
    {"key": "WORKERS", "type": "integer", "minimum": 1, "maximum": 8},
    {"key": "RATIO", "type": "number"},
    {"key": "DEBUG", "type": "boolean"},
    {"key": "BASE_URL", "type": "url"},
    {"key": "CA_FILE", "type": "path"},
    {"key": "MAIL", "type": "email"},
    {"key": "APP_ID", "pattern": "cli_[a-z0-9]{4,}"},
    {"key": "NOTE", "required": False},
    {"key": "DATABASE_URL", "type": "url", "secret": True},
    {"key": "API_KEY", "secret": True, "min_length": 24},
]
GOOD = {
    "LOG_LEVEL": "INFO",
    "WORKERS": "4",
    "RATIO": "0.5",
    "DEBUG": "false",
    "BASE_URL": "https://example.staging.internal/x",
    "CA_FILE": "/etc/ssl/ca.pem",
    "MAIL": "ops@corp.internal",
    "APP_ID": "cli_ab12",
    "NOTE": "two words # $x",
    "DATABASE_URL": "postgresql://app:hG7%2Bk2Lq9zR4vX1m@db.staging.internal:5432/example_staging",
    "API_KEY": "9f2c4e7ab1d84c0f93e6a5d2b7c81f04",
}


def problems_of(change=None, drop=(), declared=DECLARED, **options):
    values = {key: value for key, value in {**GOOD, **(change or {})}.items() if key not in drop}
    return env_check.check(declared, values=values, **options)


def codes(report):
    return {(problem.key, problem.code) for problem in report.problems}


def test_a_good_environment_passes_everything():
    report = problems_of()
    assert report.problems == []
    assert {item["id"]: item["status"] for item in report.evidence} == {
        "config.required": "pass",
        "config.format": "pass",
        "config.no_examples": "pass",
        "config.secret.strength": "pass",
        "config.validated": "pass",
    }


@pytest.mark.parametrize(
    ("change", "code", "evidence"),
    [
        ({"LOG_LEVEL": "LOUD"}, "wrong_choice", "config.format"),
        ({"WORKERS": "four"}, "wrong_type", "config.format"),
        ({"WORKERS": "4.5"}, "wrong_type", "config.format"),
        ({"WORKERS": "0"}, "wrong_choice", "config.format"),
        ({"WORKERS": "9"}, "wrong_choice", "config.format"),
        ({"RATIO": "half"}, "wrong_type", "config.format"),
        ({"DEBUG": "maybe"}, "wrong_type", "config.format"),
        ({"BASE_URL": "staging.internal"}, "wrong_type", "config.format"),
        ({"BASE_URL": "https://host:99999/"}, "wrong_type", "config.format"),
        ({"BASE_URL": "https:///path"}, "wrong_type", "config.format"),
        ({"CA_FILE": "etc/ca.pem"}, "wrong_type", "config.format"),
        ({"CA_FILE": "/etc/../ca.pem"}, "wrong_type", "config.format"),
        ({"MAIL": "nobody"}, "wrong_type", "config.format"),
        ({"APP_ID": "CLI_AB12"}, "wrong_pattern", "config.format"),
        ({"EXTRA": "1"}, "unknown_key", "config.format"),
        ({"BASE_URL": ""}, "empty_value", "config.required"),
        ({"NOTE": "line\nbreak"}, "cannot_be_written", "config.format"),
        ({"APP_ID": "cli_your-app-id"}, "placeholder", "config.no_examples"),
        ({"NOTE": "<the note>"}, "placeholder", "config.no_examples"),
        ({"NOTE": "${NOTE}"}, "placeholder", "config.no_examples"),
        ({"NOTE": "{{ note }}"}, "placeholder", "config.no_examples"),
        ({"NOTE": "xxxx"}, "placeholder", "config.no_examples"),
        ({"NOTE": "TODO"}, "placeholder", "config.no_examples"),
        ({"NOTE": "..."}, "placeholder", "config.no_examples"),
        ({"BASE_URL": "https://example.com/"}, "placeholder", "config.no_examples"),
        ({"API_KEY": "change-me-api-key-of-at-least-32-characters"}, "placeholder", "config.no_examples"),
        ({"API_KEY": "your-secret-key-Here-1234567890"}, "placeholder", "config.no_examples"),
        ({"DATABASE_URL": "postgresql://user:password@db/x"}, "placeholder", "config.no_examples"),
        ({"API_KEY": "short"}, "short_secret", "config.secret.strength"),
        ({"API_KEY": "a" * 40}, "simple_secret", "config.secret.strength"),
        ({"API_KEY": "abcdefghijklmnopqrstuvwxyz"}, "simple_secret", "config.secret.strength"),
        ({"API_KEY": "01234567890123456789012345"}, "simple_secret", "config.secret.strength"),
        ({"API_KEY": "aB3$eF" * 5}, "simple_secret", "config.secret.strength"),
        ({"API_KEY": "Password1234567890123456!"}, "simple_secret", "config.secret.strength"),
        ({"API_KEY": "api_key_api-key-2026-AB!1"}, "simple_secret", "config.secret.strength"),
        ({"API_KEY": "thethethecatcatcatonon me"}, "simple_secret", "config.secret.strength"),
        ({"DATABASE_URL": "postgresql://app:short1A!@db.staging.internal/x"}, "short_secret", "config.secret.strength"),
    ],
)
def test_each_rule_is_red_on_a_real_fault_and_tells_no_value(change, code, evidence):
    ((key, value),) = change.items()
    report = problems_of(change)
    assert (key, code) in codes(report)
    status = {item["id"]: item["status"] for item in report.evidence}
    assert status[evidence] == "fail"
    assert status["config.validated"] == "fail"
    text = json.dumps(report.evidence) + "\n".join(map(str, report.problems))
    if len(value) > 6:
        assert value not in text


@pytest.mark.parametrize(
    "secret",
    ["9f2c4e7ab1d84c0f93e6a5d2b7c81f04", "kR7!vQ2#xW9@pL4$mN6^bT1&", "correcthorsebatterystaplewagon", "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA=="],
)
def test_strong_secrets_pass(secret):
    assert env_rules.secret_weakness("API_KEY", secret) is None


def test_a_thousand_generated_secrets_are_neither_weak_nor_placeholders():
    chance = random.Random(7)
    for _ in range(1000):
        secret = "".join(chance.choices(string.ascii_letters + string.digits + "+/", k=32))
        assert env_rules.secret_weakness("KEY", secret) is None, secret
        assert not env_rules.is_placeholder(secret, True), secret


def test_missing_and_duplicate_keys_are_red(tmp_path):
    assert codes(problems_of(drop=["API_KEY", "NOTE"])) == {("API_KEY", "missing_key")}
    path = tmp_path / "a.env"
    path.write_text(env_file.render(GOOD) + "WORKERS=3\n")
    os.chmod(path, 0o600)
    report = env_check.check(DECLARED, path=str(path))
    assert codes(report) == {("WORKERS", "duplicate_key")}
    assert f"{path}:12:WORKERS: " in str(report.problems[0])


def test_a_line_that_cannot_be_read_is_not_called_missing_as_well(tmp_path):
    path = tmp_path / "a.env"
    path.write_text(env_file.render({key: value for key, value in GOOD.items() if key != "WORKERS"}) + 'WORKERS="3\n')
    os.chmod(path, 0o600)
    assert codes(env_check.check(DECLARED, path=str(path))) == {("WORKERS", "unterminated_quote")}


def test_the_templates_sample_is_red_where_it_is_no_sensible_default(tmp_path):
    template = tmp_path / "template.env"
    template.write_text("LOG_LEVEL=INFO\nWORKERS=4\nBASE_URL=https://example.staging.internal/x\nCA_FILE=/other\n")
    assert codes(problems_of(template=str(template))) == {("BASE_URL", "template_value")}
    declared = [dict(item, value=GOOD["BASE_URL"]) if item["key"] == "BASE_URL" else item for item in DECLARED]
    assert codes(problems_of(declared=declared, template=str(template))) == set()
    assert next(problem.code for problem in problems_of(template=str(tmp_path / "none")).problems) == "unreadable"


def test_what_production_names_is_refused_by_key_and_kind():
    forbidden = [{"marker": "staging.internal", "why": "a production domain"}, {"marker": "example", "why": "a production database"}]
    report = problems_of(forbidden=forbidden)
    assert codes(report) == {("BASE_URL", "forbidden"), ("DATABASE_URL", "forbidden")}
    assert "the value names a production domain" in str(report.problems[0])


@pytest.mark.parametrize(
    ("value", "marker", "found"),
    [
        ("postgresql://u:p@db.example.org:5432/shop", "example.org", True),
        ("postgresql://u:p@db.example.org.evil:5432/shop", "example.org", False),
        ("postgresql://u:p@notexample.org/shop", "example.org", False),
        ("postgresql://u:p@db/shop", "shop", True),
        ("postgresql://u:p@db/shop_staging", "shop", False),
        ("postgresql://u:p@db/shop-staging", "shop", False),
        ("postgresql://u:p@db:5432/x", 5432, True),
        ("postgresql://u:p@db:15432/x", 5432, False),
        ("5432", 5432, True),
        ("version 5432", 5432, False),
    ],
)
def test_markers_are_found_as_whole_names(value, marker, found):
    assert markers.holds(value, marker) is found


def test_mode_and_owner_of_a_file_with_secrets(tmp_path):
    path = tmp_path / "credentials.env"
    path.write_text(env_file.render(GOOD))
    os.chmod(path, 0o644)
    report = env_check.check(DECLARED, path=str(path), owner="nobody")
    assert {problem.code for problem in report.problems} == {"wrong_mode", "wrong_owner"}
    status = {item["id"]: item["status"] for item in report.evidence}
    assert (status["sec.secrets.mode"], status["config.file"], status["config.validated"]) == ("fail", "pass", "fail")
    os.chmod(path, 0o600)
    assert env_check.check(DECLARED, path=str(path)).problems == []


def test_a_file_that_is_missing_leaves_no_green_record(tmp_path):
    report = env_check.check(DECLARED, path=str(tmp_path / "none.env"))
    status = {item["id"]: item["status"] for item in report.evidence}
    assert status.pop("config.file") == "fail"
    assert status.pop("config.validated") == "fail"
    assert set(status.values()) == {"no_evidence"}


def test_wrong_declarations_are_named():
    report = env_check.check([{"key": "A", "typ": "x"}, {"key": "B", "type": "enum"}, {"key": "C", "pattern": "("}], values={"A": "1"})
    assert [problem.code for problem in report.problems] == ["wrong_declaration"] * 3


MODULE = Path(__file__).parents[2] / "plugins" / "modules" / "env_file_check.py"
RUNNER = """
import sys, runpy
sys.path.insert(0, {tests!r})
import conftest
from ansible.module_utils.testing import patch_module_args
import json
with patch_module_args(json.loads(sys.stdin.read())):
    runpy.run_path({module!r}, run_name="__main__")
"""


def run_module(**args):
    code = RUNNER.format(tests=str(Path(__file__).parents[1]), module=str(MODULE))
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(args), capture_output=True, text=True, check=False)
    return done, json.loads(done.stdout.splitlines()[-1])


def test_the_module_names_keys_and_hands_no_value_back():
    sentinel = "5EntinelV4lue-never-printed-"
    values = {**GOOD, "API_KEY": sentinel[:8], "NOTE": sentinel + "\n", "WORKERS": sentinel, "UNKNOWN": sentinel, "DEBUG": "e"}
    done, result = run_module(values=values, declared=DECLARED, _ansible_check_mode=True)
    assert result["failed"] is True
    text = done.stdout + done.stderr
    assert sentinel not in text
    assert sentinel[:8] not in text
    assert "********" not in text  # a value of one letter blots out nothing
    assert {(item["key"], item["code"]) for item in result["problems"]} >= {
        ("API_KEY", "short_secret"),
        ("NOTE", "cannot_be_written"),
        ("WORKERS", "wrong_type"),
        ("UNKNOWN", "unknown_key"),
        ("DEBUG", "wrong_type"),
    }
    assert "values" not in result["invocation"]["module_args"]


def test_the_module_passes_a_good_file_and_reports_a_bad_one(tmp_path):
    path = tmp_path / "a.env"
    path.write_text(env_file.render(GOOD))
    path.chmod(0o600)
    _, result = run_module(path=str(path), declared=DECLARED)
    assert (result["changed"], result["problems"]) == (False, [])
    assert {item["status"] for item in result["evidence"]} == {"pass"}
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    _, result = run_module(path=str(path), declared=DECLARED, fail=False)
    assert "failed" not in result
    assert {item["code"] for item in result["problems"]} == {"crlf"}


def test_the_module_wants_either_a_file_or_values():
    _, result = run_module(declared=[])
    assert result["failed"] is True


def test_two_hundred_bad_files_are_refused_by_the_whole_check(tmp_path):
    chance = random.Random(42)
    sentinel = "LeakSentinel77"
    spoil = [
        lambda lines, i, key: lines.pop(i),
        lambda lines, i, key: lines.append(f"{key}={sentinel}"),
        lambda lines, i, key: lines.__setitem__(i, f"{key}="),
        lambda lines, i, key: lines.__setitem__(i, lines[i] + "\r"),
        lambda lines, i, key: lines.__setitem__(i, f"{key}='{sentinel}"),
        lambda lines, i, key: lines.__setitem__(i, f"{key}=changeme-{sentinel}"),
        lambda lines, i, key: lines.__setitem__(i, f"{key} {sentinel}"),
        lambda lines, i, key: lines.__setitem__(i, f"{key}_TYPO={sentinel}"),
        lambda lines, i, key: lines.insert(0, "\ufeff" + lines.pop(0)),
        lambda lines, i, key: lines.__setitem__(i, f"{key}=https://prod.internal/{sentinel}"),
    ]
    for number in range(200):
        lines = env_file.render(GOOD).splitlines()
        index = chance.randrange(len(lines))
        key = lines[index].partition("=")[0]
        if key == "NOTE":
            continue_at = next(i for i, line in enumerate(lines) if line.startswith("API_KEY"))
            index, key = continue_at, "API_KEY"
        spoil[number % len(spoil)](lines, index, key)
        path = tmp_path / f"{number}.env"
        path.write_text("\n".join(lines) + "\n", newline="")
        os.chmod(path, 0o600)
        report = env_check.check(DECLARED, path=str(path), forbidden=[{"marker": "prod.internal", "why": "a production host"}])
        text = "\n".join(map(str, report.problems)) + json.dumps(report.evidence)
        assert report.problems, (number, lines)
        assert {item["id"]: item["status"] for item in report.evidence}["config.validated"] == "fail"
        assert all(problem.file == str(path) for problem in report.problems)
        assert number % len(spoil) in (6, 8) or any(problem.key and problem.key.startswith(key) for problem in report.problems), (
            number,
            text,
        )
        assert sentinel not in text
