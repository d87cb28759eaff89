"""A process with a wrong environment does not start, names each key, and shows no value."""

import subprocess
import sys

import pytest

from lark_service.settings import ConfigurationError, load


def test_complete(settings):
    assert (settings.port, settings.pool_max, settings.greenroom_slot) == (8101, 10, "green")
    assert "password" not in repr(settings)
    assert "database-password" in settings.secret_values()


@pytest.mark.parametrize("key", ["DATABASE_URL", "BROKER_URL", "ENCRYPTION_KEY", "API_KEY", "FEISHU_BASE_URL"])
def test_missing_key_is_named(settings, monkeypatch, key):
    monkeypatch.delenv(key)
    with pytest.raises(ConfigurationError, match=f"{key}: is missing"):
        load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATABASE_URL", "mysql://user:hunter2hunter2@localhost/x"),
        ("DATABASE_URL", "postgresql://user:hunter2hunter2@localhost/"),
        ("DATABASE_URL", "postgresql://user:hunter2hunter2@data.example/lark"),
        ("DATABASE_URL", "postgresql://user:hunter2hunter2@data.example/lark?sslmode=require"),
        ("BROKER_URL", "http://user:hunter2hunter2@localhost/"),
        ("BROKER_URL", "amqp://user:hunter2hunter2@data.example:5672/"),
        ("BROKER_CA_FILE", None),
        ("ENCRYPTION_KEY", "hunter2hunter2"),
        ("API_KEY", "hunter2hunter2"),
        ("FEISHU_BASE_URL", "hunter2hunter2"),
        ("PORT", "hunter2hunter2"),
        ("PORT", "70000"),
        ("POOL_MAX", "0"),
        ("LOG_LEVEL", "hunter2hunter2"),
        ("TOKEN_REFRESH_MARGIN_S", "7000"),
    ],
)
def test_wrong_value_is_refused_by_key_without_showing_it(settings, monkeypatch, key, value):
    if key == "BROKER_CA_FILE":
        monkeypatch.setenv("BROKER_URL", "amqps://user:hunter2hunter2@data.example:5671/")
    else:
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError, match=key) as refused:
        load()
    assert "hunter2" not in str(refused.value)


def test_all_problems_at_once(settings, monkeypatch):
    monkeypatch.delenv("API_KEY")
    monkeypatch.setenv("POOL_MAX", "none")
    with pytest.raises(ConfigurationError, match=r"API_KEY.*POOL_MAX|POOL_MAX.*API_KEY"):
        load()


@pytest.mark.parametrize("module", ["web", "worker"])
def test_process_ends_with_78(module):
    done = subprocess.run(
        [sys.executable, "-m", f"lark_service.{module}"], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert done.returncode == 78
    assert "DATABASE_URL: is missing" in done.stderr
