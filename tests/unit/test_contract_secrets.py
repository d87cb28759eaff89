"""Secrets and production's names: what is refused, and that no value of a secret ever shows."""

import copy
import json

import pytest
from ansible.module_utils.greenroom import contract

BASE = {
    "name": "example-service",
    "package": "example_service",
    "source": {"git": "https://git.example.internal/example.git", "ref": "v1.2.0"},
    "processes": [{"name": "web", "kind": "web", "command": "uvicorn example:app --port ${PORT}"}],
    "ports": {"blue": 8101, "green": 8102},
    "env": [
        {"key": "API_BASE", "type": "url", "value": "https://api.staging.example.internal:8443/v1"},
        {"key": "DB_PORT", "type": "integer", "value": "5432"},
        {"key": "DATABASE_URL", "type": "url", "secret": True},
        {"key": "AMQP_URL", "type": "url", "secret": True},
        {"key": "SIGNING_KEY", "type": "string", "secret": True},
    ],
    "dependencies": {
        "database": {"name": "example_staging", "owner": "example_owner", "user": "example_app", "url_key": "DATABASE_URL"},
        "broker": {"vhost": "/example-staging", "user": "example_mq", "url_key": "AMQP_URL"},
    },
    "health": {},
    "configure": [{"id": "config.app.added", "name": "Register", "command": "cli add", "stdin_secret": "APP_SECRET"}],
    "gateway": {"server_names": ["example.staging.example.internal"]},
}
SECRETS = {
    "vault_postgresql_owner_password": "Owner-pw/7Kq2Zx9Lm4",
    "vault_postgresql_app_password": "App-pw/7Kq2Zx9Lm4",
    "vault_rabbitmq_password": "Queue-pw/7Kq2Zx9Lm4",
    "vault_service_env": {
        "DATABASE_URL": "postgresql://example_app:App-pw%2F7Kq2Zx9Lm4@d1.staging.example.internal:5432/example_staging?sslmode=verify-full",
        "AMQP_URL": "amqps://example_mq:Queue-pw%2F7Kq2Zx9Lm4@d1.staging.example.internal:5671/%2Fexample-staging",
        "SIGNING_KEY": "Sign-key-7Kq2Zx9Lm4",
        "APP_SECRET": "Console-7Kq2Zx9Lm4-vW",
    },
}
GROUPS = {"gateway": ["g1"], "app": ["a1"], "database": ["d1"], "broker": ["d1"]}
ADDRESSES = {"g1": "10.0.0.1", "a1": "10.0.0.2", "d1": "d1.staging.example.internal"}


def check(secrets=SECRETS, markers=None, base=BASE, addresses=ADDRESSES, groups=GROUPS):
    found = contract.validate(base, secrets=secrets, markers=markers, groups=groups, addresses=addresses)
    shown = json.dumps(found)
    for value in (
        [*secrets.get("vault_service_env", {}).values(), *secrets.values()] if isinstance(secrets.get("vault_service_env"), dict) else []
    ):
        assert not (isinstance(value, str) and len(value) > 5 and value in shown)
    for word in ("7Kq2Zx9Lm4", "geheim"):
        assert word not in shown
    paths = [problem["path"] for problem in found]
    return {path: " | ".join(problem["message"] for problem in found if problem["path"] == path) for path in paths}


def with_secret(key, value):
    made = copy.deepcopy(SECRETS)
    if key.startswith("vault_"):
        made[key] = value
    else:
        made["vault_service_env"][key] = value
    return made


def without(key):
    made = copy.deepcopy(SECRETS)
    (made if key.startswith("vault_") else made["vault_service_env"]).pop(key)
    return made


def test_sound_secrets_have_no_problems():
    assert check() == {}


def test_a_service_without_secrets_needs_no_map_of_them():
    base = {**BASE, "env": [{"key": "LOG_LEVEL", "type": "string", "value": "INFO"}], "dependencies": {}, "configure": []}
    assert check(secrets={}, base=base) == {}
    assert "no mapping" in check(secrets={"vault_service_env": None}, base={**base, "configure": BASE["configure"]})["vault_service_env"]


SIGNING = "vault_service_env.SIGNING_KEY"
DATABASE_URL, AMQP_URL = "vault_service_env.DATABASE_URL", "vault_service_env.AMQP_URL"


def url(user="example_app", password="App-pw%2F7Kq2Zx9Lm4", port=5432, name="example_staging"):
    return f"postgresql://{user}:{password}@d1:{port}/{name}"


BAD = [
    (without("SIGNING_KEY"), "vault_service_env.SIGNING_KEY", "is missing"),
    (without("APP_SECRET"), "service.configure[0].stdin_secret", "APP_SECRET is no secret"),
    (without("vault_postgresql_owner_password"), "vault_postgresql_owner_password", "is missing"),
    (with_secret("vault_rabbitmq_password", ""), "vault_rabbitmq_password", "is missing"),
    (without("vault_service_env"), "vault_service_env", "no mapping"),
    (with_secret("vault_service_env", ["a"]), "vault_service_env", "no mapping"),
    (with_secret("SINGING_KEY", "Other-key-7Kq2Zx9Lm4"), "vault_service_env.SINGING_KEY", "no declared secret"),
    (with_secret("API_BASE", "https://other.internal/"), "vault_service_env.API_BASE", "no declared secret"),
    (with_secret("SIGNING_KEY", "short"), "vault_service_env.SIGNING_KEY", "shorter than 8"),
    (with_secret("SIGNING_KEY", "change-me-geheim-7Kq2"), SIGNING, "placeholder"),
    (with_secret("SIGNING_KEY", "example-secret-value-1"), SIGNING, "placeholder"),
    (with_secret("SIGNING_KEY", "abcdefghijklmnopqrstuvwxyz"), SIGNING, "neighbouring"),
    (with_secret("SIGNING_KEY", "Xy7Kq2Zx9"), SIGNING, "9 characters long, 16 are wanted"),
    (with_secret("SIGNING_KEY", "Xy7Kq2Zx9 geheim\nX=1"), SIGNING, "line break"),
    (with_secret("APP_SECRET", "change-me-geheim-7Kq2"), "vault_service_env.APP_SECRET", "placeholder"),
    (with_secret("APP_SECRET", "aaaaaaaaaaaaaaaaaaaaaaa"), "vault_service_env.APP_SECRET", "1 different"),
    (with_secret("vault_postgresql_owner_password", "replace-me-geheim"), "vault_postgresql_owner_password", "placeholder"),
    (with_secret("vault_rabbitmq_password", "Xy7Kq2Zx9"), "vault_rabbitmq_password", "16 are wanted"),
    (with_secret("SIGNING_KEY", "   "), "vault_service_env.SIGNING_KEY", "is empty"),
    (with_secret("SIGNING_KEY", 1234567890), "vault_service_env.SIGNING_KEY", "is no text"),
    (with_secret("SIGNING_KEY", True), "vault_service_env.SIGNING_KEY", "is no text"),
    (with_secret("SIGNING_KEY", "example_staging"), "service.dependencies.database.name", "holds the value of vault_service_env.SIGN"),
    (with_secret("SIGNING_KEY", "x Owner-pw/7Kq2Zx9Lm4"), "vault_service_env.SIGNING_KEY", "owner's password"),
    (with_secret("vault_postgresql_app_password", "Owner-pw/7Kq2Zx9Lm4"), "vault_postgresql_app_password", "owner's password"),
    (with_secret("DATABASE_URL", url(user="example_owner")), DATABASE_URL, "another user"),
    (with_secret("DATABASE_URL", url(password="other-geheim")), DATABASE_URL, "another password"),
    (with_secret("DATABASE_URL", url(port=5433)), DATABASE_URL, "another port"),
    (with_secret("DATABASE_URL", url(name="example")), DATABASE_URL, "another database"),
    (with_secret("DATABASE_URL", "not a url at all"), DATABASE_URL, "is no URL"),
    (with_secret("DATABASE_URL", "postgresql://example_app@d1:port/x"), DATABASE_URL, "is no URL"),
    (with_secret("AMQP_URL", "amqps://example_mq:Queue-pw%2F7Kq2Zx9Lm4@d1/example-staging"), AMQP_URL, "another broker"),
]  # fmt: skip


@pytest.mark.parametrize(("secrets", "where", "words"), BAD)
def test_bad_secrets_are_refused_by_name(secrets, where, words):
    found = check(secrets)
    assert words in found.get(where, ""), found


PASSWORD = "Cache-pw/7Kq2Zx9Lm4"
URL = "rediss://:Cache-pw%2F7Kq2Zx9Lm4@d1.staging.example.internal:6379/0"


def cached(url=URL, password=PASSWORD, mode="installed", **part):
    """Problems of a contract with a cache whose URL this is, as {path: message}."""
    base, secrets = copy.deepcopy(BASE), copy.deepcopy(SECRETS)
    base["dependencies"]["cache"] = {"mode": mode, "url_key": "CACHE_URL", **part}
    base["env"].append({"key": "CACHE_URL", "type": "url", "secret": True})
    secrets["vault_service_env"]["CACHE_URL"] = url
    if password is not None:
        secrets["vault_redis_password"] = password
    return check(secrets, base=base, groups={**GROUPS, "cache": ["d1"]})


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"password": None}, "vault_redis_password", "missing"),
        ({"password": "short"}, "vault_redis_password", "shorter"),
        ({"password": "Other-pw/7Kq2Zx9Lm4"}, "vault_service_env.CACHE_URL", "another password"),
        ({"url": URL.replace("rediss", "redis")}, "vault_service_env.CACHE_URL", "TLS only"),
        ({"url": URL.replace("6379", "6380")}, "vault_service_env.CACHE_URL", "another port"),
        ({"url": URL.replace("//:", "//anna:")}, "vault_service_env.CACHE_URL", "names a user"),
        ({"url": URL.replace("6379", "x")}, "vault_service_env.CACHE_URL", "no URL"),
        ({"mode": "provided", "url": URL.replace("6379", "6380")}, "vault_service_env.CACHE_URL", "another port"),
    ],
)
def test_a_caches_url_says_what_the_contract_says(changes, where, words):
    assert words in cached(**changes)[where]


def test_sound_caches_have_no_problems():
    assert cached() == {}
    assert cached(url=URL.replace("6379", "6380"), port=6380) == {}
    assert cached(url="redis://cache.example.internal/0", mode="provided", password=None) == {}


def test_a_provided_database_must_be_the_one_of_the_url():
    base = copy.deepcopy(BASE)
    base["dependencies"]["database"].update(mode="provided", host="managed.example.internal")
    assert "another host" in check(base=base)["vault_service_env.DATABASE_URL"]


MARKED = [
    # kind, marker, change to (contract path, value) or (secret key, value), where it is refused
    ("hosts", "gateway.prod.internal", ("dependencies.database.host", "gateway.prod.internal"), "service.dependencies.database.host"),
    ("hosts", "192.0.2.10", ("env.0.value", "http://192.0.2.10:80/"), "service.env[0].value"),
    ("hosts", "db.prod.internal", ("SIGNING_KEY", "geheim db.prod.internal geheim"), "vault_service_env.SIGNING_KEY"),
    ("hosts", "DB.prod.internal", ("SIGNING_KEY", "geheim@db.PROD.internal:1/"), "vault_service_env.SIGNING_KEY"),
    ("domains", "prod.internal", ("gateway.server_names.0", "www.prod.internal"), "service.gateway.server_names[0]"),
    ("domains", "prod.internal", ("SIGNING_KEY", "https://geheim.prod.internal/x"), "vault_service_env.SIGNING_KEY"),
    ("databases", "example", ("dependencies.database.name", "example"), "service.dependencies.database.name"),
    ("databases", "example", ("dependencies.broker.vhost", "/example"), "service.dependencies.broker.vhost"),
    ("databases", "example", ("SIGNING_KEY", "postgresql://geheim@h/example"), "vault_service_env.SIGNING_KEY"),
    ("databases", "example", ("SIGNING_KEY", "host=geheim dbname=example"), "vault_service_env.SIGNING_KEY"),
    ("databases", "example", ("env.0.value", "postgresql://h/example?x=1"), "service.env[0].value"),
    ("ports", 8000, ("ports.blue", 8000), "service.ports.blue"),
    ("ports", 6432, ("dependencies.database.port", 6432), "service.dependencies.database.port"),
    ("ports", 8443, ("env.0.value", "https://h:8443/"), "service.env[0].value"),
    ("ports", 5999, ("SIGNING_KEY", "redis://geheim:5999/0"), "vault_service_env.SIGNING_KEY"),
    ("ports", 5999, ("SIGNING_KEY", "host=geheim port=5999"), "vault_service_env.SIGNING_KEY"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "marker", "change", "where"), MARKED)
def test_what_points_at_production_is_refused_by_key(kind, marker, change, where):
    key, value = change
    base, secrets = copy.deepcopy(BASE), SECRETS
    if key.isupper():
        secrets = with_secret(key, value)
    else:
        node = base
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        for part in parents:
            node = node[part]
        node[last] = value
    found = check(secrets, {kind: [marker]}, base)
    assert f"production_markers.{kind}[0]" in found.get(where, ""), found
    if where.startswith("vault_"):
        assert str(marker).lower() not in found[where].lower()  # the marker is part of the secret here


@pytest.mark.parametrize("markers", [{"hosts": ["10.0.0.2"]}, {"hosts": ["a1"]}, {"domains": ["staging.example.internal"]}])
def test_hosts_of_production_are_refused(markers):
    assert "is a host of production" in check(markers=markers)["groups"]


NOT_PRODUCTION = [
    {"hosts": ["example.internal", "10.0.0.20", "0.0.0.1", "1.staging.example.internal"]},
    {"domains": ["ple.internal", "api.example.internal", "internal.example"]},
    {"databases": ["example_service", "example-service", "staging", "example"]},
    {"ports": [443_0, 81, 8000]},
    {"hosts": [], "domains": [], "databases": [], "ports": []},
]


@pytest.mark.parametrize("markers", NOT_PRODUCTION)
def test_names_that_only_look_alike_are_let_through(markers):
    assert check(markers=markers) == {}


BAD_MARKERS = [
    ("x", "production_markers", "no mapping"),
    ({"host": ["x"]}, "production_markers.host", "did you mean hosts?"),
    ({"hosts": "x"}, "production_markers.hosts", "no list of names"),
    ({"hosts": [""]}, "production_markers.hosts", "no list of names"),
    ({"ports": ["8000"]}, "production_markers.ports", "no list of numbers"),
]


@pytest.mark.parametrize(("markers", "where", "words"), BAD_MARKERS)
def test_malformed_markers_are_refused(markers, where, words):
    assert words in check(markers=markers).get(where, "")


def test_production_has_no_markers():
    found = check(markers={"hosts": ["x.internal"]}, base={**BASE, "environment": "production"})
    assert "says that this is production" in found["service.environment"]
    assert check(markers=None, base={**BASE, "environment": "production"}) == {}
