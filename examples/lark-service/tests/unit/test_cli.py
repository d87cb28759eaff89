"""The CLI: exit statuses, one JSON object, secrets only on standard input and never shown."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from lark_service import cli as cli_module
from lark_service.settings import ConfigurationError

from .conftest import APP, SECRET


@pytest.fixture
def run(services, monkeypatch):
    """Runs a command and returns (exit status, JSON or text, standard error)."""
    monkeypatch.setattr(cli_module, "_services", lambda: services)
    # Each command closes its HTTP client at the end; here the next command uses it again.
    monkeypatch.setattr(services.feishu, "close", services.store.open)
    runner = CliRunner()

    def go(*arguments, stdin=None):
        result = runner.invoke(cli_module.cli, list(arguments), input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert SECRET not in result.output
        out = json.loads(result.stdout) if "--json" in arguments and result.stdout else result.stdout
        return result.exit_code, out, result.stderr

    return go


def add(run, secret=SECRET, *more):
    return run("app", "add", APP, "--name", "Example", "--json", *more, stdin=secret + "\n")


def test_add_is_idempotent_and_careful(run):
    assert add(run)[:2] == (0, {"ok": True, "app_id": APP, "changed": True})
    assert add(run)[1]["changed"] is False
    status, body, _ = add(run, "another secret")
    assert (status, body["ok"], body["error"]["code"]) == (4, False, "conflict")
    assert add(run, "another secret", "--update")[1]["changed"] is True


def test_add_wants_a_secret_and_an_app_id(run):
    assert run("app", "add", APP, "--name", "x", stdin="")[0] == 2
    assert run("app", "add", "something", "--name", "x", stdin="s\n")[0] == 2
    assert run("app", "add", APP, "--name", "x", "--secret", "s")[0] == 2


def test_list_show_enable_disable(run):
    assert run("app", "list")[1].strip() == "no application is registered"
    assert run("app", "show", APP, "--json")[0] == 3
    assert run("app", "enable", APP, "--json")[0] == 3
    add(run)
    assert run("app", "list", "--json")[1]["count"] == 1
    assert run("app", "show", APP, "--json")[1]["enabled"] is True
    assert run("app", "disable", APP, "--json")[1] == {"ok": True, "app_id": APP, "enabled": False, "changed": True}
    assert run("app", "disable", APP)[1].strip() == f"{APP}: disabled (it was before)"
    status, body, _ = run("token", "obtain", APP, "--json")
    assert (status, body["error"]["code"]) == (4, "conflict")
    assert "disabled" in run("app", "show", APP)[1]
    run("app", "enable", APP)
    assert "enabled" in run("app", "list")[1]


def test_verify(run, services):
    add(run)
    assert run("app", "verify", APP, "--json")[1]["ok"] is True
    assert services.store.kept == {}
    add(run, "wrong", "--update")
    status, body, _ = run("app", "verify", APP, "--json")
    assert (status, body["ok"], body["feishu_code"]) == (5, False, 10014)


def test_token_is_never_printed(run, feishu):
    add(run)
    status, body, _ = run("token", "obtain", APP, "--json")
    assert (status, body["ok"], body["source"], body["length"]) == (0, True, "feishu", 16)
    assert "t-token" not in str(body)
    assert "valid for" in run("token", "obtain", APP)[1]
    assert run("token", "obtain", APP, "--kind", "other")[0] == 2
    assert run("token", "obtain", "cli_unknown", "--json")[0] == 3


def test_refresh_of_one_says_whether_the_token_changed(run, feishu):
    add(run)
    run("token", "obtain", APP)
    assert run("token", "refresh", APP, "--json")[1]["changed"] is True
    assert feishu.issued == 2


def test_refresh_of_what_is_due(run, feishu):
    add(run)
    assert run("tokens", "refresh", "--json")[1]["refreshed"] == 1
    assert run("token", "refresh", "--json")[1]["refreshed"] == 0
    add(run, "wrong", "--update")
    feishu.expire = 100
    run("token", "refresh", "--json")
    feishu_down = [httpx.ConnectError("refused")]
    feishu.answers = feishu_down
    status, body, error = run("app", "verify", APP, "--json")
    assert (status, body["error"]["code"]) == (1, "feishu_unavailable")
    assert "cannot be reached" in error


def test_failed_refresh_is_exit_1(run, services):
    add(run, "wrong")
    status, body, _ = run("token", "refresh", "--json")
    assert (status, body["ok"], body["refreshed"], len(body["failed"])) == (1, False, 0, 1)


def test_send(run, services, feishu):
    add(run)
    arguments = ("message", "send", APP, "--to", "ou_1", "--text", "hello", "--json")
    assert run(*arguments)[1]["status"] == "queued"
    status, body, _ = run(*arguments, "--wait", "0.3")
    assert (status, body["ok"], body["status"]) == (1, False, "queued")
    assert run(*arguments, "--direct")[1]["feishu_message_id"] == "om_1"
    assert run("message", "send", APP, "--to", "ou_1", "--text", "", "--json")[0] == 2
    services.broker.fail = True
    assert run(*arguments)[1]["error"]["code"] == "dependency"


def test_check(run, services):
    assert run("check", "--json")[1]["status"] == "healthy"
    services.broker.fail = True
    status, body, _ = run("check", "--json")
    assert (status, body["ok"], body["status"]) == (1, False, "unhealthy")


def test_dependencies_and_surprises(run, services):
    services.store.fail = OSError("refused")
    assert run("app", "list", "--json")[:2][0] == 1
    services.store.fail = ValueError(f"quotes {SECRET}")
    status, body, _ = run("app", "list", "--json")
    assert (status, body["error"]) == (1, {"code": "unexpected", "message": "ValueError"})


def test_configuration_refused(run, monkeypatch):
    def refuse():
        raise ConfigurationError("configuration refused: API_KEY: is missing")

    monkeypatch.setattr(cli_module, "_services", refuse)
    status, body, _ = run("check", "--json")
    assert (status, body["error"]["code"]) == (78, "configuration")


def test_version(run):
    assert run("version")[1].strip().count(".") == 2


def test_template(run, monkeypatch):
    assert "ENCRYPTION_KEY=" in run("template")[1]
    assert run("template", "--check", "--json")[1]["ok"] is True
    monkeypatch.setattr(cli_module.env_template, "text", lambda: "PORT=1\n")
    status, body, _ = run("template", "--check", "--json")
    assert (status, body["ok"]) == (1, False)
    assert "API_KEY is not in the template" in body["problems"]
