"""Probes against real PostgreSQL, RabbitMQ, Redis and nginx: green on what is right, red on each real fault, no secret told."""

import json
import threading

import pytest
from ansible.module_utils.greenroom import health_check

SECRETS = {"right": "Integration-Passw0rd-71c2", "wrong": "not-the-password-4711"}


def measure(secrets=SECRETS, **probe):
    """The record of one probe."""
    (record,) = health_check.run(health_check.plan([{"id": "test.id", **probe}], secrets), secrets)
    text = json.dumps(record)
    assert not any(value in text for value in secrets.values())
    return record


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(postgres):
    """A database with an owner, an application role with DML only, a table with an index; the probe's connection arguments."""
    postgres.sql(
        f"CREATE ROLE app LOGIN PASSWORD '{postgres.password}'",
        "CREATE DATABASE app_staging",
    )
    postgres.sql(
        "CREATE EXTENSION pgcrypto",
        "CREATE TABLE tokens (id int PRIMARY KEY, v text)",
        "CREATE INDEX tokens_v ON tokens (v)",
        "INSERT INTO tokens VALUES (1, 'one'), (2, 'two')",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON tokens TO app",
        "CREATE TABLE hidden (id int)",
        "CREATE SCHEMA scratch AUTHORIZATION app",
        dbname="app_staging",
    )
    return {
        "type": "postgresql",
        "host": "127.0.0.1",
        "port": postgres.port,
        "dbname": "app_staging",
        "user": "app",
        "password_key": "right",
    }


def test_postgresql_connects_and_states_its_version(app):
    record = measure(**app, version_min=13, sslmode="require", ssl=True)
    assert record["status"] == "pass", record
    assert record["detail"]["server_version"].startswith("15.")
    assert record["detail"]["target"] == f"127.0.0.1:{app['port']}/app_staging"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"password_key": "wrong"}, "password authentication failed"),
        ({"user": "nobody_here"}, "authentication failed"),
        ({"dbname": "nowhere"}, "does not exist"),
        ({"port": 1}, "onnection refused"),
        ({"version_min": 99}, "≥ 99"),
        ({"ssl": True, "sslmode": "disable"}, "TLS"),
        ({"ssl": False, "sslmode": "require"}, "plain"),
        ({"extensions": ["pgcrypto", "postgis"]}, "missing: postgis"),
        ({"tables": ["tokens", "user_cache"]}, "missing: public.user_cache"),
        ({"indexes": ["tokens_pkey", "tokens_other"]}, "missing: public.tokens_other"),
        ({"privileges": [{"object": "tokens", "kind": "table", "has": ["SELECT", "TRUNCATE"]}]}, "no TRUNCATE"),
        ({"privileges": [{"object": "tokens", "kind": "table", "has_not": ["DELETE"]}]}, "has DELETE"),
        ({"refused": ["SELECT 1"]}, "may run"),
        ({"refused": ["SELECT nonsense"]}, "another reason"),
        ({"query": "SELECT count(*) FROM tokens", "expect": 3}, "gives 2"),
        ({"query": "SELECT v FROM tokens WHERE id = 9", "expect": "x"}, "no row"),
        ({"query": "SELECT id FROM hidden", "expect": "x"}, "permission denied"),
        ({"query": "SELECT pg_sleep(30)", "expect": "", "timeout_s": 2}, "statement timeout"),
        ({"crud": True, "crud_schema": "public"}, "permission denied"),
        ({"crud": True, "crud_schema": "missing"}, "does not exist"),
        ({"sslmode": "verify-full", "ca_file": "/nowhere.pem"}, "/nowhere.pem"),
    ],
)
def test_postgresql_is_red_on(app, change, told):
    record = measure(**{**app, **change})
    assert record["status"] == "fail"
    assert told in record["reason"]


def test_postgresql_contents_are_compared(app, postgres):
    record = measure(
        **app,
        extensions=["pgcrypto"],
        tables=["tokens"],
        indexes=["tokens_pkey", "tokens_v"],
        privileges=[
            {"object": "tokens", "kind": "table", "has": ["SELECT", "INSERT"], "has_not": ["TRUNCATE"]},
            {"object": "public", "kind": "schema", "has_not": ["CREATE"]},
        ],
        refused=["CREATE TABLE public.x (i int)", "DROP TABLE tokens"],
        query="SELECT id FROM tokens ORDER BY id",
        expect=[1, 2],
        sslmode="verify-full",
        ca_file=str(postgres.ca_file),
    )
    assert record["status"] == "pass", record
    assert measure(**app, query="SELECT id, v FROM tokens WHERE id = %s", parameters=[1], expect=[[1, "one"]])["status"] == "pass"
    assert measure(**app, query="SELECT id FROM tokens WHERE false", expect=[])["status"] == "pass"


def test_postgresql_index_that_is_not_valid_counts_as_missing(app, postgres):
    postgres.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tokens_v'::regclass", dbname="app_staging")
    try:
        assert "missing: public.tokens_v" in measure(**app, indexes=["tokens_v"])["reason"]
    finally:
        postgres.sql("UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'tokens_v'::regclass", dbname="app_staging")


@pytest.mark.parametrize("schema", [{}, {"crud_schema": "scratch"}])
def test_postgresql_crud_compares_and_leaves_nothing(app, postgres, schema):
    record = measure(**app, crud=True, **schema)
    assert record["status"] == "pass", record
    assert record["detail"]["crud"] == ["write", "read", "update", "read again", "delete", "nothing remains"]
    assert postgres.sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'greenroom_probe%'", dbname="app_staging") == [(0,)]


def test_postgresql_crud_sees_a_value_that_changed_on_its_way(app, postgres):
    """A trigger that spoils what is written, on every table made in the scratch schema: the comparison must notice."""
    postgres.sql(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.value := 'spoilt'; RETURN NEW; END $$",
        """CREATE FUNCTION on_create() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made record; BEGIN
             FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
               IF made.object_type = 'table' AND made.schema_name = 'scratch' THEN
                 EXECUTE format('CREATE TRIGGER t BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION spoil()', made.object_identity);
               END IF;
             END LOOP; END $$""",
        "CREATE EVENT TRIGGER spoil_all ON ddl_command_end EXECUTE FUNCTION on_create()",
        dbname="app_staging",
    )
    try:
        record = measure(**app, crud=True, crud_schema="scratch")
    finally:
        postgres.sql("DROP EVENT TRIGGER spoil_all", "DROP FUNCTION on_create", "DROP FUNCTION spoil", dbname="app_staging")
    assert record["status"] == "fail"
    assert "read: got" in record["reason"]


def test_postgresql_stopped_is_red_and_within_waits_for_its_return(app, postgres):
    postgres.stop(2)
    assert "onnection refused" in measure(**app)["reason"]
    back = threading.Timer(1.0, postgres.start)
    back.start()
    record = measure(**app, within_s=30)
    back.join()
    assert record["status"] == "pass", record
    assert record["detail"]["attempts"] > 1
    assert record["duration_ms"] > 900


# --- RabbitMQ --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(rabbitmq):
    return {"type": "amqp", "host": "127.0.0.1", "port": rabbitmq.port, "user": "tester", "password_key": "right", "vhost": "/test"}


def test_amqp_carries_a_message_and_leaves_no_queue(broker, rabbitmq):
    record = measure(**broker, version="3")
    assert record["status"] == "pass", record
    assert record["detail"]["product"] == "RabbitMQ"
    assert record["detail"]["round_trip_ms"] > 0
    assert "greenroom" not in rabbitmq.ctl("list_queues", "-p", "/test", "name")


def test_amqp_over_tls_is_verified(broker, rabbitmq):
    secure = {**broker, "port": rabbitmq.tls_port, "tls": True}
    assert measure(**secure, ca_file=str(rabbitmq.ca_file))["status"] == "pass"
    record = measure(**secure)
    assert record["status"] == "fail"
    assert "certificate refused" in record["reason"]
    record = measure(**secure, ca_file=str(rabbitmq.ca_file), sni="other.internal")
    assert "certificate refused" in record["reason"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"password_key": "wrong"}, "refuses the user or its password"),
        ({"vhost": "/nowhere"}, "denies this user the virtual host"),
        ({"port": 1}, "connection refused"),
        ({"queues": ["absent"]}, "queue absent"),
        ({"exchanges": ["absent"]}, "exchange absent"),
        ({"version": "4"}, "not RabbitMQ 4"),
        ({"version_min": "99"}, "≥ 99"),
        ({"expect": "refused"}, "the login works and must not"),
    ],
)
def test_amqp_is_red_on(broker, change, told):
    record = measure(**{**broker, **change})
    assert record["status"] == "fail"
    assert told in record["reason"], record


def test_amqp_refusal_is_what_was_wanted_only_when_the_broker_says_no(broker):
    assert measure(**{**broker, "password_key": "wrong", "expect": "refused"})["status"] == "pass"
    assert measure(**{**broker, "user": "guest2", "expect": "refused"})["status"] == "pass"
    assert measure(**{**broker, "port": 1, "expect": "refused"})["status"] == "fail"


def test_amqp_user_without_rights_cannot_make_the_round_trip(broker, rabbitmq):
    rabbitmq.ctl("add_user", "reader", rabbitmq.password)
    rabbitmq.ctl("set_permissions", "-p", "/test", "reader", "^$", "^$", ".*")
    record = measure(**{**broker, "user": "reader"})
    assert record["status"] == "fail"
    assert "403" in record["reason"]
    assert measure(**{**broker, "user": "reader", "round_trip": False})["status"] == "pass"


def test_amqp_finds_queues(broker, rabbitmq):
    import pika

    connection = pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", rabbitmq.port, "/test", pika.PlainCredentials("tester", rabbitmq.password))
    )
    connection.channel().queue_declare("work", durable=True)
    connection.close()
    assert measure(**broker, queues=["work"], exchanges=["amq.topic"])["status"] == "pass"


# --- Redis -----------------------------------------------------------------------------------------------------------


def test_redis_answers_through_its_whole_address(redis_server):
    secrets = {**SECRETS, "url": f"redis://:{redis_server.password}@127.0.0.1:{redis_server.port}/0"}
    record = measure(secrets, type="redis", url_key="url", round_trip=True, version_min="7")
    assert record["status"] == "pass", record
    assert measure(type="redis", url=f"redis://127.0.0.1:{redis_server.port}", password_key="right")["status"] == "pass"


def test_redis_is_red_without_its_password_or_without_a_server(redis_server):
    url = f"redis://127.0.0.1:{redis_server.port}"
    assert "authenticate" in measure(type="redis", url=url)["reason"].lower()
    assert measure(type="redis", url=url, password_key="wrong")["status"] == "fail"
    assert "99" in measure(type="redis", url=url, password_key="right", version_min="99")["reason"]
    redis_server.stop()
    try:
        assert "refused" in measure(type="redis", url=url, password_key="right")["reason"]
    finally:
        redis_server.start()


def test_redis_must_refuse_whoever_has_no_password(redis_server):
    url = f"redis://127.0.0.1:{redis_server.port}"
    assert measure(type="redis", url=url, expect="refused")["status"] == "pass"
    assert measure(type="redis", url=url, expect="refused", password_key="wrong")["status"] == "pass"
    assert "must not" in measure(type="redis", url=url, expect="refused", password_key="right")["reason"]
    redis_server.stop()
    try:
        assert measure(type="redis", url=url, expect="refused")["status"] == "fail", "a server that is down has refused nobody"
    finally:
        redis_server.start()


def test_redis_runs_with_the_settings_that_were_asked_for(redis_server):
    probe = {"type": "redis", "url": f"redis://127.0.0.1:{redis_server.port}", "password_key": "right"}
    assert measure(**probe, info={"maxmemory_policy": "noeviction", "maxmemory": 0})["status"] == "pass"
    record = measure(**probe, info={"maxmemory_policy": "allkeys-lru"})
    assert record["status"] == "fail"
    assert "noeviction" in record["reason"]


def test_redis_that_may_not_write_fails_the_round_trip(redis_server):
    import redis

    client = redis.Redis(port=redis_server.port, password=redis_server.password)
    client.config_set("maxmemory", "1")
    try:
        record = measure(type="redis", url=f"redis://127.0.0.1:{redis_server.port}", password_key="right", round_trip=True)
    finally:
        client.config_set("maxmemory", "0")
        client.close()
    assert record["status"] == "fail"
    assert "memory" in record["reason"]


# --- nginx: HTTP and TLS ---------------------------------------------------------------------------------------------


def tls_site(nginx, cert, key, protocols="TLSv1.2 TLSv1.3", ciphers=""):
    nginx.configure(
        f"server {{ listen 127.0.0.1:{nginx.port}; location / {{ return 301 https://elsewhere/; }} }}\n"
        f"server {{ listen 127.0.0.1:{nginx.tls_port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};"
        f" ssl_protocols {protocols}; {ciphers} default_type application/json;"
        f' add_header X-Frame-Options DENY always; location = /health {{ return 200 \'{{"status":"unhealthy"}}\'; }}'
        f' location = /ok {{ return 200 \'{{"status":"healthy","host":"$host"}}\'; }} }}'
    )
    return nginx.start()


def test_https_through_a_gateway_by_name(nginx, authority):
    site = tls_site(nginx, *authority.issue("site", "app.staging.internal"))
    probe = {
        "type": "http",
        "url": "https://app.staging.internal/ok",
        "connect_to": f"127.0.0.1:{site.tls_port}",
        "ca_file": str(authority.ca_file),
    }
    record = measure(**probe, json={"status": "healthy", "host": "app.staging.internal"}, response_headers={"X-Frame-Options": "DENY"})
    assert record["status"] == "pass", record
    assert record["detail"]["tls"] == "TLSv1.3"
    assert "unhealthy" in measure(**{**probe, "url": "https://app.staging.internal/health"}, json={"status": "healthy"})["reason"]
    assert "certificate refused" in measure(**{**probe, "ca_file": None})["reason"]
    assert "certificate refused" in measure(**{**probe, "url": "https://other.internal/ok"})["reason"]
    assert "HTTP 301" in measure(type="http", url=f"http://127.0.0.1:{site.port}/")["reason"]
    record = measure(**probe, response_headers={"X-Frame-Options": "SAMEORIGIN", "Strict-Transport-Security": True})
    assert "Strict-Transport-Security is absent" in record["reason"]


def test_tls_of_a_good_server(nginx, authority):
    site = tls_site(nginx, *authority.issue("good", "app.staging.internal", end_days=60))
    probe = {"type": "tls", "host": "127.0.0.1", "port": site.tls_port, "sni": "app.staging.internal", "ca_file": str(authority.ca_file)}
    record = measure(**probe)
    assert record["status"] == "pass", record
    assert 59 < record["detail"]["days_left"] < 61
    assert "the certificate ends in" in measure(**probe, days_left=90)["reason"]
    assert "certificate refused" in measure(**{**probe, "sni": "other.internal"})["reason"]
    assert "certificate refused" in measure(**{**probe, "ca_file": None})["reason"]
    assert "accepts TLSv1.2" in measure(**probe, min_protocol="TLSv1.3")["reason"]


def test_tls_certificate_that_has_ended(nginx, authority):
    site = tls_site(nginx, *authority.issue("old", "app.staging.internal", start_days=-30, end_days=-1))
    record = measure(type="tls", host="127.0.0.1", port=site.tls_port, sni="app.staging.internal", ca_file=str(authority.ca_file))
    assert record["status"] == "fail"
    assert "expired" in record["reason"]


def test_tls_server_that_still_speaks_old_protocols(nginx, authority):
    site = tls_site(nginx, *authority.issue("weak", "app.staging.internal"), "TLSv1 TLSv1.1 TLSv1.2", "ssl_ciphers ALL:@SECLEVEL=0;")
    record = measure(type="tls", host="127.0.0.1", port=site.tls_port, sni="app.staging.internal", ca_file=str(authority.ca_file))
    assert record["status"] == "fail"
    assert "accepts TLSv1.1" in record["reason"]
    assert (
        measure(
            type="tls",
            host="127.0.0.1",
            port=site.tls_port,
            sni="app.staging.internal",
            ca_file=str(authority.ca_file),
            min_protocol="TLSv1",
        )["status"]
        == "pass"
    )


def test_tls_on_a_port_without_tls(nginx, authority):
    site = tls_site(nginx, *authority.issue("plain", "app.staging.internal"))
    record = measure(type="tls", host="127.0.0.1", port=site.port, ca_file=str(authority.ca_file))
    assert record["status"] == "fail"
    assert "TLS failed" in record["reason"]


def test_one_log_of_a_real_server(nginx, authority):
    site = tls_site(nginx, *authority.issue("log", "app.staging.internal"))
    measure(type="http", url=f"http://127.0.0.1:{site.port}/", status=301)
    error_log = str(site.folder / "error.log")
    assert measure(type="log", path=error_log)["status"] == "no_evidence"
    with open(error_log, "a") as log:
        log.write("2026/11/20 09:00:00 [error] 1#1: *1 open() failed (2: No such file or directory)\n")
    record = measure(type="log", path=error_log)
    assert record["status"] == "fail"
    assert "line 1: " in record["reason"]
    assert measure(type="log", path=error_log, since="2026-11-20T09:30:00", allow_empty=True)["status"] == "pass"
