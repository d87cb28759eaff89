"""Scratch databases and virtual hosts on real servers: closed to others, dropped with whatever earlier runs have left."""

import psycopg
import pytest
from ansible.module_utils.greenroom import scratch, scratch_servers

SERVICE = "example-service"
MADE = {**scratch.names(SERVICE, "20261120T091244Z-a1b2c3"), "password": "madeForThisRun71"}
EARLIER = {**scratch.names(SERVICE, "20261119T000000Z-0f0f0f"), "password": "madeForTheOne"}


@pytest.fixture
def database(postgres):
    postgres.sql("CREATE DATABASE live_example", "REVOKE CONNECT ON DATABASE live_example FROM PUBLIC")
    login = {"host": postgres.host, "port": postgres.port, "user": "postgres", "password": postgres.password}
    server = scratch_servers.Database(login, live="live_example")
    yield server
    scratch_servers.absent([server], SERVICE)
    postgres.sql("DROP DATABASE live_example")


@pytest.fixture
def broker(rabbitmq, tmp_path):
    rabbitmq.ctl("add_user", "chief", "chiefs-own-word-19")
    rabbitmq.ctl("set_user_tags", "chief", "administrator")
    note = tmp_path / "netrc"
    note.write_text("machine 127.0.0.1\nlogin chief\npassword chiefs-own-word-19\n")
    note.chmod(0o600)
    server = scratch_servers.Broker(rabbitmq.api, str(note))
    yield server
    scratch_servers.absent([server], SERVICE)
    rabbitmq.ctl("delete_user", "chief")


def connected(postgres, dbname, made=MADE):
    return psycopg.connect(host=postgres.host, port=postgres.port, user=made["role"], password=made["password"], dbname=dbname)


def test_the_scratch_role_owns_its_database_and_reaches_no_other(postgres, database):
    database.make(MADE, 5, ["pgcrypto"])
    with connected(postgres, MADE["database"]) as connection:
        connection.execute("CREATE TABLE t AS SELECT digest('x', 'sha256') AS d")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        connected(postgres, "live_example")
    database.make(EARLIER, 5, [])
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        connected(postgres, MADE["database"], EARLIER)
    assert postgres.sql(f"SELECT rolconnlimit, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = '{MADE['role']}'") == [(5, False, False)]


def test_nothing_is_made_while_the_live_database_is_open_to_everybody(postgres, database):
    postgres.sql("GRANT CONNECT ON DATABASE live_example TO PUBLIC")
    with pytest.raises(scratch_servers.ScratchError, match="REVOKE CONNECT ON DATABASE live_example FROM PUBLIC"):
        database.make(MADE, 5, [])
    assert MADE["database"] not in database.found()


def test_what_runs_have_left_is_dropped_even_while_a_session_is_open(postgres, database, broker, rabbitmq):
    for made in (EARLIER, MADE):
        database.make(made, 5, [])
        broker.make(made)
    names = sorted({name for made in (EARLIER, MADE) for name in (made["database"], made["vhost"], made["user"])})
    open_session = connected(postgres, EARLIER["database"], EARLIER)
    assert scratch_servers.left([database, broker], SERVICE) == names
    assert scratch_servers.absent([database, broker], SERVICE, dry=True)["dropped"] == names
    assert scratch_servers.left([database, broker], SERVICE) == names
    assert scratch_servers.absent([database, broker], SERVICE) == {"dropped": names, "left": []}
    assert scratch_servers.absent([database, broker], SERVICE) == {"dropped": [], "left": []}
    with pytest.raises(psycopg.OperationalError):
        open_session.execute("SELECT 1")
    assert "/test" in rabbitmq.ctl("list_vhosts")


def test_the_scratch_user_has_rights_in_its_virtual_host_only(broker, rabbitmq):
    broker.make(MADE)
    assert rabbitmq.ctl("list_user_permissions", MADE["user"], "--no-table-headers").split("\t")[0] == MADE["vhost"]


def test_another_services_scratch_things_stay(database):
    database.make(MADE, 5, [])
    assert scratch_servers.absent([database], "other-service") == {"dropped": [], "left": []}
    assert MADE["database"] in database.found()


def test_one_server_that_is_away_does_not_keep_the_other_from_being_cleaned(database, broker):
    database.make(MADE, 5, [])
    away = scratch_servers.Broker("http://127.0.0.1:1/api", broker.netrc_file)
    with pytest.raises(scratch_servers.ScratchError, match="refused"):
        scratch_servers.absent([database, away], SERVICE)
    assert MADE["database"] not in database.found()


def test_errors_name_the_server_and_never_a_password(postgres, broker, tmp_path):
    login = {"host": postgres.host, "port": postgres.port, "user": "postgres", "password": "not-the-word-83"}
    with pytest.raises(scratch_servers.ScratchError, match=rf"PostgreSQL at {postgres.host}:{postgres.port}") as refused:
        scratch_servers.Database(login).found()
    assert "not-the-word-83" not in str(refused.value)
    wrong = tmp_path / "wrong"
    wrong.write_text("machine 127.0.0.1\nlogin chief\npassword not-the-word-84\n")
    with pytest.raises(scratch_servers.ScratchError, match="401") as refused:
        scratch_servers.Broker(broker.api, str(wrong)).found()
    assert "not-the-word-84" not in str(refused.value)
    with pytest.raises(scratch_servers.ScratchError, match="--tags prepare"):
        scratch_servers.Broker(broker.api, str(tmp_path / "absent")).found()
