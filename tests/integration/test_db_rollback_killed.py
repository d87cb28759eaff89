"""What becomes of a way back that is killed in the middle: one database under the live name, open again, and the next run goes on."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom import db_switch

sys.path.insert(0, str(Path(__file__).parent))
from restore_acts import act, heal
from restore_fixtures import *  # noqa: F403 - fixtures
from restore_fixtures import POINT, app, databases, rows

SWAP = [
    "before:ALLOW_CONNECTIONS false", "after:ALLOW_CONNECTIONS false", "after:SET greenroom.blocked", "before:pg_terminate_backend",
    "after:pg_terminate_backend", 'before:RENAME TO "live_before_t1"', 'after:RENAME TO "live_before_t1"', "before:RENAME TO \"live\"",
    'after:RENAME TO "live"', "before:RESET greenroom.kept_until", "after:RESET greenroom.kept_until", "before:ALLOW_CONNECTIONS true",
    "after:ALLOW_CONNECTIONS true",
]  # fmt: skip


@pytest.mark.parametrize("kill_at", SWAP)
@pytest.mark.parametrize("healed_by", ["stop", "rerun"])
def test_a_swap_that_is_killed_leaves_one_live_database_that_is_open_again(cluster, admin, live, kill_at, healed_by):
    plan = act("planned", cluster.dsn())
    act("copied", cluster.dsn(), plan=plan, name="live_copy")
    with cluster.connect("live") as connection:
        connection.execute("DELETE FROM notes")
    busy = app(cluster)  # somebody to be ended
    assert act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=POINT, kill_at=kill_at) == {"killed": True}
    assert databases(admin) in (["live", "live_before_t1"], ["live", "live_copy"]), "exactly one under the live name"
    if healed_by == "stop":
        heal(cluster.dsn())
        app(cluster).close()
        assert admin.execute("SELECT bool_and(datallowconn) FROM pg_database WHERE datname LIKE 'live%'").fetchone()[0]
    act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=POINT)
    assert databases(admin) == ["live", "live_before_t1"] and rows(cluster) == 1000
    app(cluster).close()
    assert admin.execute("SELECT count(*) FROM pg_db_role_setting, unnest(setconfig) c WHERE c LIKE '%blocked%'").fetchone()[0] == 0
    busy.close()


@pytest.mark.parametrize("kill_at", ["after:SET greenroom.blocked", "after:pg_terminate_backend", "before:ALLOW_CONNECTIONS true"])
def test_a_block_that_is_killed_is_opened_again(cluster, admin, live, kill_at):
    plan = act("planned", cluster.dsn())
    busy = app(cluster)
    assert act("blocked", cluster.dsn(), plan=plan, kill_at=kill_at) == {"killed": True}
    assert heal(cluster.dsn()) in (["live"], [])
    app(cluster).close()
    admin.execute("ALTER DATABASE live ALLOW_CONNECTIONS false")
    assert heal(cluster.dsn()) == [] and not admin.execute("SELECT datallowconn FROM pg_database WHERE datname = 'live'").fetchone()[0]
    busy.close()


@pytest.mark.parametrize("kill_at", ["before:CREATE DATABASE", "after:CREATE DATABASE", "after:SET greenroom.copied", "before:RENAME TO"])
def test_a_copy_that_is_killed_is_no_copy(cluster, admin, live, kill_at):
    plan = act("planned", cluster.dsn())
    assert act("copied", cluster.dsn(), plan=plan, name="live_copy", kill_at=kill_at) == {"killed": True}
    assert "live_copy" not in databases(admin)
    heal(cluster.dsn())
    app(cluster).close()
    act("copied", cluster.dsn(), plan=plan, name="live_copy")
    assert databases(admin) == ["live", "live_copy"]


CARRY = ["after:DROP DATABASE", "after:CREATE DATABASE", "before:pg_export_snapshot", "before:ANALYZE", "after:ANALYZE"]


@pytest.mark.parametrize("kill_at", CARRY)
def test_a_carry_over_that_is_killed_is_made_anew(cluster, admin, carried, kill_at):
    assert act("carried", cluster.dsn(), kill_at=kill_at, **carried) == {"killed": True}
    assert rows(cluster) == 10
    app(cluster).close()
    assert act("carried", cluster.dsn(), **carried)["rows"] == 2001
    act("swapped", cluster.dsn(), safety=POINT, **carried)
    assert databases(admin) == ["live", "live_before_t1"] and rows(cluster) == 1000


def test_a_server_that_goes_on_with_a_killed_ones_statement_is_stopped(cluster, admin, live):
    """The client is gone, its backend sleeps in a statement and holds the lock: heal ends it, and does not wait for it."""
    with cluster.connect(application_name="greenroom-rollback t1") as dead:
        dead.execute("SELECT pg_advisory_lock(%s)", [db_switch.LOCK_KEY])
        dead.execute("ALTER DATABASE live ALLOW_CONNECTIONS false; ALTER DATABASE live SET greenroom.blocked = '1'")

        def sleep():
            with pytest.raises(psycopg.Error):
                dead.execute("SELECT pg_sleep(600)")

        sleeping = threading.Thread(target=sleep, daemon=True)
        sleeping.start()
        began = time.monotonic()
        assert heal(cluster.dsn()) == ["live"]
        assert time.monotonic() - began < 30
        sleeping.join(10)
    app(cluster).close()
