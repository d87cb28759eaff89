"""A database back to a logical backup, one of every kind of object in it: proved, carried over without a false alarm, in by its name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import db_rollback

sys.path.insert(0, str(Path(__file__).parent))
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import DATABASE
from restore_acts import Refused, act, heal

POINT = {"kind": "point", "name": "before", "repos": [1]}


@pytest.fixture
def operation(site, backup):
    """(arguments of every act, with the plan; the configuration of the host that restores)."""
    folder = site.folder / "rollback" / "t1"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, folder.parent):
        shutil.chown(path, "postgres")
    config = site.folder / "restore.json"
    config.write_text(json.dumps(site.document()))
    plan = act("planned", site.source.dsn(), database=DATABASE, to=f"backup:{backup['id']}")
    yield {"database": DATABASE, "plan": plan, "folder": str(folder), "name": "shop_restored_t1", "config": str(config)}
    with site.source.connect() as admin:
        for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'shop\\_%'").fetchall():
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def rows(site):
    with site.source.connect(DATABASE) as connection:
        return connection.execute("SELECT count(*) FROM sales.orders").fetchone()[0]


@pytest.mark.timeout(200)
def test_one_of_everything_is_carried_over_and_swapped_in(site, operation):
    before = rows(site)
    assert operation["plan"]["at_risk"]["seconds"] < 300 and operation["plan"]["loses"]
    with site.source.connect(DATABASE) as connection:
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
        connection.execute("INSERT INTO sales.orders (customer, total) VALUES (2, 1)")
    recipient = act("keyed", site.source.dsn(), **operation)["recipient"]
    made = act("cloned", site.source.dsn(), recipient=recipient, **operation)
    assert made["sealed"] and "AGE-SECRET-KEY" not in json.dumps(made)
    done = act("carried", site.source.dsn(), part=made["part"], **operation)
    assert done["rows"] == made["rows"] and rows(site) == before + 1
    with site.source.connect(DATABASE) as connection:
        subscribed = [name for (name,) in connection.execute("SELECT subname FROM pg_subscription").fetchall()]
    if subscribed:
        with pytest.raises(Refused, match=f"subscriptions: {subscribed[0]}"):
            act("swapped", site.source.dsn(), safety=POINT, **operation)
        with site.source.connect(DATABASE) as connection:
            for name in subscribed:
                connection.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
                connection.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
                connection.execute(f"DROP SUBSCRIPTION {name}")
    swapped = act("swapped", site.source.dsn(), safety=POINT, **operation)
    assert rows(site) == before and swapped["settings"] and heal(site.source.dsn()) == []
    with site.source.connect() as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        admin.execute(f'ALTER DATABASE "{swapped["kept"]}" RENAME TO {DATABASE}')
        admin.execute(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1")


@pytest.mark.timeout(100)
def test_a_backup_that_is_not_proved_goes_no_further(site, operation):
    data = next(site.local.rglob("data.tar.zst.age"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(Refused, match="is cut, damaged or exchanged"):
        act("cloned", site.source.dsn(), **operation)
    assert not [path for path in Path(operation["folder"]).iterdir() if path.name != "transit_key"]
    operation["plan"] = {**operation["plan"], "to": "backup:example-service-20200101T000000Z-abcdef"}
    with pytest.raises(Refused, match="has no complete backup"):
        act("cloned", site.source.dsn(), **operation)


def test_arguments_that_cannot_be_meant_are_refused():
    good = {"id": "t1", "service": "example-service", "database": "live", "name": "live_restored_t1", "to": "lsn:0/3000028", "tables": []}
    assert db_rollback.malformed(good) is None
    bad = ({"id": "T 1"}, {"id": "x" * 41}, {"service": "a b"}, {"name": "a;b"}, {"to": "yesterday"}, {"database": "d" * 50})
    for change in bad:
        assert db_rollback.malformed({**good, **change}), change
    argv = db_rollback.argv(
        {"act": "swapped", "dsn": db_rollback.superuser("/run/x", 5432, "t1"), "id": "t1"},
        service="example-service", python="/v/python", library="/lib", limit_s=60, paths=["/a"], pid=7,
    )  # fmt: skip
    stop = "--property=ExecStopPost=/v/python -m greenroom.db_rollback heal --socket /run/x --port 5432 --id t1"
    assert "--unit=greenroom-rollback-example-service.service" in argv and stop in argv and "--property=RuntimeMaxSec=120" in argv
