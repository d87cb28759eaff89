"""Scratch names and the environment of the tests: nothing live is in it."""

import base64
import hashlib
from urllib.parse import unquote, urlsplit

import pytest
from ansible.module_utils.greenroom import scratch as subject

SERVICE = {
    "name": "example-service",
    "env": [
        {"key": "LOG_LEVEL", "type": "enum", "value": "INFO"},
        {"key": "DEBUG", "type": "boolean", "value": False},
        {"key": "DATABASE_URL", "type": "url", "secret": True},
        {"key": "BROKER_URL", "type": "url", "secret": True},
        {"key": "REDIS_URL", "type": "url", "secret": True},
        {"key": "ENCRYPTION_KEY", "type": "string", "secret": True, "min_length": 48},
        {"key": "OPTIONAL", "type": "string"},
    ],
    "dependencies": {
        "database": {"name": "example_staging", "owner": "example_owner", "user": "example_app", "url_key": "DATABASE_URL"},
        "broker": {"vhost": "/example-staging", "user": "example", "url_key": "BROKER_URL"},
        "cache": {"url_key": "REDIS_URL"},
    },
}
LIVE = {
    "DATABASE_URL": "postgresql://example_app:live-password@db.internal:5433/example_staging?sslmode=verify-full&sslrootcert=/ca.crt",
    "BROKER_URL": "amqps://example:live-password@mq.internal:5671/%2Fexample-staging",
    "REDIS_URL": "redis://:live-password@cache.internal/0",
    "ENCRYPTION_KEY": "the-live-encryption-key",
}
MADE = {**subject.names("example-service", "20261120T091244Z-a1b2c3"), "password": "made/for@the run"}


def test_names_say_whose_they_are_and_of_which_run():
    assert {key: MADE[key] for key in ("database", "role", "vhost", "user")} == {
        "database": "example_service_scratch_20261120t091244z_a1b2c3",
        "role": "example_service_scratch_20261120t091244z_a1b2c3",
        "vhost": "/scratch-example-service-20261120t091244z-a1b2c3",
        "user": "scratch-example-service-20261120t091244z-a1b2c3",
    }
    longest = subject.names("a" * 28, "20261120T091244Z-a1b2c3")
    assert len(longest["database"]) <= 63 and longest["database"].endswith("a1b2c3")
    with pytest.raises(ValueError, match="run id"):
        subject.names("x", "--")


def test_addresses_keep_their_server_and_options_and_nothing_else():
    made = subject.environment(SERVICE, LIVE, MADE)
    database, broker = (urlsplit(made["secrets"][key]) for key in ("DATABASE_URL", "BROKER_URL"))
    assert (database.hostname, database.port, database.query) == ("db.internal", 5433, "sslmode=verify-full&sslrootcert=/ca.crt")
    assert database.path == "/example_service_scratch_20261120t091244z_a1b2c3" and database.username == MADE["role"]
    assert unquote(database.password) == unquote(broker.password) == MADE["password"]
    assert (broker.scheme, broker.port, unquote(broker.path)) == ("amqps", 5671, "//scratch-example-service-20261120t091244z-a1b2c3")


def test_nothing_live_reaches_the_tests():
    made = subject.environment(SERVICE, LIVE, MADE)
    text = repr(made)
    for live in ("live-password", "the-live-encryption-key", "example_staging", "example-staging", "example_app", "cache.internal"):
        assert live not in text
    assert "REDIS_URL" not in made["secrets"]
    assert len(made["secrets"]["ENCRYPTION_KEY"]) == 48
    assert made["env"] == {"LOG_LEVEL": "INFO", "DEBUG": "false", "GREENROOM_SLOT": "scratch"}
    assert subject.environment(SERVICE, LIVE, MADE)["secrets"]["ENCRYPTION_KEY"] != made["secrets"]["ENCRYPTION_KEY"]


@pytest.mark.parametrize("value", ["", "db.internal/example", "not an address"])
def test_an_address_that_is_none_is_refused_by_key_only(value):
    with pytest.raises(ValueError, match="DATABASE_URL") as raised:
        subject.environment(SERVICE, {**LIVE, "DATABASE_URL": value}, MADE)
    assert not value or value not in str(raised.value)


def test_a_service_without_dependencies_needs_none():
    assert subject.environment({"name": "x", "env": []}, {}, MADE) == {"env": {"GREENROOM_SLOT": "scratch"}, "secrets": {}}


def test_an_address_may_be_of_ipv6():
    assert subject.address("postgresql://u:p@[::1]:5432/live", "s", "w", "/scratch") == "postgresql://s:w@[::1]:5432/scratch"


def test_what_earlier_runs_left_is_found_by_its_whole_name_and_live_names_are_not():
    made = subject.names("example-service", "20261119T080000Z-ffffff")
    live = ["example_service", "example_staging", "example_service_scratch", "/example-service"]
    others = ["other_scratch_20261119t080000z_ffffff", "example_service_scratch_scratch_20261119t080000z_ffffff"]
    found = [made["database"], made["vhost"], made["user"], MADE["database"], *live, *others]
    assert subject.leftovers(found, "example-service", [MADE["database"]]) == sorted([made["database"], made["vhost"], made["user"]])
    assert subject.leftovers([subject.names("example-service-b", "20261119T080000Z-ffffff")["vhost"]], "example-service") == []


def test_the_broker_gets_a_hash_and_rights_on_one_virtual_host():
    made = subject.definitions(MADE)
    assert MADE["password"] not in repr(made)
    raw = base64.b64decode(made["users"][0]["password_hash"])
    assert raw[4:] == hashlib.sha256(raw[:4] + MADE["password"].encode()).digest()
    assert made["users"][0]["tags"] == [] and [item["vhost"] for item in made["permissions"]] == [MADE["vhost"]]
