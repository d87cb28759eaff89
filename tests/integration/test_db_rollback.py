"""The acts of the ways back on a real server: plan, safety, refusals, a copy of before, what comes from a clone, what is in their way."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom import db_carry, db_clone, db_plan, db_switch, migration
from ansible.module_utils.greenroom.backup.errors import BackupError, NoSpaceError
from ansible.module_utils.greenroom.db_switch import SwitchError

sys.path.insert(0, str(Path(__file__).parent))
from restore_acts import Refused, act
from restore_fixtures import *  # noqa: F403 - fixtures
from restore_fixtures import POINT, app, databases, rows

# --- plan, safety, refusals -----------------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_be_lost_and_changes_nothing(cluster, admin, live):
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    time.sleep(1.1)
    with cluster.connect("live") as connection:
        connection.execute("UPDATE notes SET body = 'y'")
        connection.execute("SELECT pg_stat_force_next_flush()")
    plan = act("planned", cluster.dsn(), to=f"time:{moment}", drill={"drills": [{"rto_s": 4.5, "backup": {"size": 1000}}]})
    assert plan["revision"] == ["r1"] and plan["loses"] and plan["database"] == "live"
    assert 1 <= plan["at_risk"]["seconds"] < 60 and plan["at_risk"]["rows"] >= 1
    assert plan["estimate"]["seconds"] >= 4.5 and plan["estimate"]["space"]["database"] > plan["bytes"]
    blind = act("planned", cluster.dsn(), to="point:nobody_knows_when")
    assert blind["loses"] and blind["at_risk"]["seconds"] is None and blind["estimate"]["seconds"] is None
    assert databases(admin) == ["live"]
    with pytest.raises(Refused, match="wanted is backup:<label"):
        act("planned", cluster.dsn(), to="yesterday")
    with pytest.raises(Refused, match="there is no database nowhere"):
        act("planned", cluster.dsn(), database="nowhere")


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("backup:20261120-101010F", "physical", {"kind": "immediate", "value": ""}),
        ("backup:20261120-101010F_20261121-101010I", "physical", {"kind": "immediate", "value": ""}),
        ("backup:shop-20261120T101010Z-4f2a9c", "logical", None),
        ("time:2026-11-20T09:30:00Z", "physical", {"kind": "time", "value": "2026-11-20T09:30:00Z"}),
        ("lsn:0/3000028", "physical", {"kind": "lsn", "value": "0/3000028"}),
        ("point:before_20261120T101010Z_abc123", "physical", {"kind": "name", "value": "before_20261120T101010Z_abc123"}),
    ],
)
def test_where_to_go_back_to(text, kind, target):
    found = db_plan.wanted(text)
    assert found["kind"] == kind and found["target"] == target
    assert (found["time"] is None) == text.startswith("lsn")


@pytest.mark.parametrize("text", ["", "backup:", "backup:newest", "time:2026-11-20T09:30:00", "lsn:here", "point:a b", "table:x"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises(BackupError, match="wanted is"):
        db_plan.wanted(text)


def test_an_act_is_refused_where_the_plan_does_not_fit_any_more(cluster, admin, live):
    plan = act("planned", cluster.dsn())
    for key, value in (("system_identifier", "7"), ("oid", 1), ("revision", ["r0"])):
        with pytest.raises(Refused, match=rf"{key} is .* Plan again\. Nothing was changed"):
            act("blocked", cluster.dsn(), plan={**plan, key: value})
    act("copied", cluster.dsn(), plan=plan, name="live_copy")
    gone, unseen = {"kind": "copy", "name": "gone"}, {"kind": "point", "name": "x"}
    for safety, words in ((None, "no restore point"), (gone, "is gone"), (unseen, "never confirmed")):
        with pytest.raises(Refused, match=words):
            act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=safety)
    with cluster.connect("live") as migrating:
        migrating.execute("SELECT pg_advisory_lock(%s)", [migration.LOCK_KEY])
        with pytest.raises(Refused, match=r"a migration of live runs: pid \d+"):
            act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=POINT)
    assert databases(admin) == ["live", "live_copy"]


def test_without_an_archive_the_safety_is_a_copy_and_without_its_configuration_there_is_none(cluster, admin, live, folder):
    plan = act("planned", cluster.dsn())
    with pytest.raises(Refused, match="nothing is known of the archive"):
        act("secured", cluster.dsn(), plan=plan, config=str(folder / "backup.json"))
    made = act("secured", cluster.dsn(), plan=plan)
    assert made["kind"] == "copy" and databases(admin) == ["live", "live_safety_t1"]


def test_a_second_operation_at_the_same_time_is_refused_and_names_the_first(cluster, live):
    plan = act("planned", cluster.dsn())
    with cluster.connect(application_name="greenroom-rollback first") as first, db_switch.only_one(first):
        for name in ("blocked", "copied"):
            with pytest.raises(Refused, match=r"another operation .* pid \d+ greenroom-rollback first since .* Nothing was changed"):
                act(name, cluster.dsn(), plan=plan, name="live_copy")
    assert act("blocked", cluster.dsn(), plan=plan)["seconds"] < 5


# --- a copy of before ---------------------------------------------------------------------------------------------------------------


def test_a_copy_of_before_comes_in_and_the_writes_since_are_counted(cluster, admin, live):
    plan = act("planned", cluster.dsn())
    act("copied", cluster.dsn(), plan=plan, name="live_copy")
    with cluster.connect("live") as connection:
        connection.execute("INSERT INTO notes SELECT n, 1, 'new' FROM generate_series(2001, 2007) n")
        connection.execute("SELECT pg_stat_force_next_flush()")
        assert connection.execute(db_plan.CHANGES).fetchone()
    plan = act("planned", cluster.dsn(), copy="live_copy")
    assert plan["at_risk"]["rows"] == 7 and plan["loses"]
    done = act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=POINT)
    assert done["kept"] == "live_before_t1" and rows(cluster) == 1000
    with app(cluster) as connection:
        assert connection.execute("SHOW work_mem").fetchone()[0] == "7MB"
    assert act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=POINT) == {"kept": "live_before_t1", "already": True}
    with pytest.raises(SwitchError, match="is kept until"):
        db_switch.forget(admin, datetime.datetime.now(datetime.UTC), "live_before_t1")
    with pytest.raises(SwitchError, match="no database that a swap has kept"):
        db_switch.forget(admin, datetime.datetime.now(datetime.UTC), "live")
    assert act("forgotten", cluster.dsn()) == {"removed": []}
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=8)
    assert db_switch.forget(admin, later) == ["live_before_t1"] and databases(admin) == ["live"]
    with pytest.raises(Refused, match="no copy that Greenroom made"):
        act("planned", cluster.dsn(), copy="live_copy")


# --- what came from a clone ---------------------------------------------------------------------------------------------------------


def test_it_is_loaded_beside_proved_equal_and_swapped_in(cluster, admin, carried):
    done = act("carried", cluster.dsn(), **carried)
    assert done["rows"] == 2001 and rows(cluster) == 10
    with pytest.raises(psycopg.OperationalError, match="too many connections"):
        app(cluster, carried["name"])
    assert admin.execute("SELECT count(*) FROM pg_database WHERE datname LIKE '%schema'").fetchone()[0] == 0
    act("swapped", cluster.dsn(), safety=POINT, **carried)
    with app(cluster) as connection:
        assert connection.execute("SELECT count(*), min(name), max(id) FROM things").fetchone() == (1000, "a", 1000)
        assert connection.execute("INSERT INTO things (name) VALUES ('c') RETURNING id").fetchone()[0] == 1001
    assert databases(admin) == ["live", "live_before_t1"]
    again = act("carried", cluster.dsn(), **carried)
    assert again["already"] and databases(admin) == ["live", "live_before_t1"]


def test_rows_that_are_gone_come_back_and_the_newest_writes_stay(cluster, admin, carried):
    act("carried", cluster.dsn(), **carried)
    done = act("copied_back", cluster.dsn(), safety=POINT, tables=[{"table": "notes"}, {"table": "things"}], **carried)
    told = {one["table"]: (one["inserted"], one["updated"]) for one in done["tables"]}
    assert told == {"notes": (990, 0), "things": (0, 0)}
    assert rows(cluster) == 1000 and rows(cluster, "things") == 1001
    with cluster.connect("live") as connection:
        assert connection.execute("SELECT count(*) FROM things WHERE name = 'b'").fetchone()[0] == 5
    assert databases(admin) == ["live"]
    act("carried", cluster.dsn(), **carried)
    tables = [{"table": "things", "where": "id <= 3"}]
    done = act("copied_back", cluster.dsn(), safety=POINT, rows="all", tables=tables, **carried)
    assert [(one["inserted"], one["updated"]) for one in done["tables"]] == [(0, 3)]


def test_a_dropped_table_comes_back_whole(cluster, carried):
    with cluster.connect("live") as bad:
        bad.execute("DROP TABLE things CASCADE")
    act("carried", cluster.dsn(), **carried)
    done = act("copied_back", cluster.dsn(), safety=POINT, tables=[{"table": "things"}], **carried)
    assert done["tables"] == [{"table": "things", "inserted": 1000, "updated": 0, "made": True}]
    with app(cluster) as connection:
        assert connection.execute("INSERT INTO things (name) VALUES ('c') RETURNING id").fetchone()[0] == 1001
    with pytest.raises(Refused, match="there is no such table"):
        act("carried", cluster.dsn(), **carried)
        act("copied_back", cluster.dsn(), safety=POINT, tables=[{"table": "nothing"}], **carried)


@pytest.mark.parametrize("fault", ["dump", "fingerprint", "row", "other", "locale"])
def test_what_was_changed_on_the_way_is_never_taken(cluster, admin, carried, fault):
    folder = Path(carried["folder"]) / "carry"
    if fault == "dump":
        (folder / "dump" / "toc.dat").write_bytes((folder / "dump" / "toc.dat").read_bytes()[:500])
    elif fault == "fingerprint":
        (folder / "fingerprint.json").write_text(json.dumps({**json.loads((folder / "fingerprint.json").read_text()), "rows": 1}))
    elif fault == "locale":
        (folder / "carry.json").write_text((folder / "carry.json").read_text().replace("C.UTF-8", "xx_YY.UTF-8"))
    elif fault == "row":
        data = next(path for path in (folder / "dump").glob("*.dat") if b"xxxx" in path.read_bytes())
        data.write_bytes(data.read_bytes().replace(b"xxxx", b"yyyy", 1))
    else:
        carried["plan"] = {**carried["plan"], "database": "other"}
        admin.execute("CREATE DATABASE other")
        carried["plan"] = act("planned", cluster.dsn(), database="other")
    words = {"dump": "pg_restore", "fingerprint": "was changed on the way", "row": r"table public\.notes: same 1000 rows, other values",
             "other": "the dump is of database live, the plan of other",
             "locale": r"locale xx_YY\.UTF-8 of the database is missing on this server: .* Generate it"}  # fmt: skip
    with pytest.raises(Refused, match=words[fault]):
        act("carried", cluster.dsn(), **{**carried, "database": "other"} if fault == "other" else carried)
    if fault == "other":
        admin.execute("DROP DATABASE other")
    assert databases(admin) == ["live"] and rows(cluster) == 10


def test_sealed_it_travels_and_a_changed_byte_is_refused(cluster, admin, carried):
    from ansible.module_utils.greenroom.backup import seal

    folder = Path(carried["folder"])
    recipient = act("keyed", cluster.dsn(), folder=str(folder))["recipient"]
    assert act("keyed", cluster.dsn(), folder=str(folder))["recipient"] == recipient
    part = seal.pack(folder / "carry", folder / "good.age", [recipient])
    shutil.rmtree(folder / "carry")
    broken = bytearray((folder / "good.age").read_bytes())
    broken[len(broken) // 2] ^= 1
    (folder / "carry.age").write_bytes(broken)
    with pytest.raises(Refused, match="is damaged or cut"):
        act("carried", cluster.dsn(), part=part, **carried)
    shutil.copy(folder / "good.age", folder / "carry.age")
    assert act("carried", cluster.dsn(), part=part, **carried)["rows"] == 2001


def test_roles_and_extensions_that_are_missing_are_named_before_anything_is_loaded(cluster, clone, admin, carried):
    with clone.connect("live") as there:
        there.execute('CREATE ROLE auditor; CREATE ROLE "odd one"; GRANT SELECT ON notes TO auditor; ALTER TABLE notes OWNER TO "odd one"')
    try:
        folder = Path(carried["folder"])
        facts = json.loads((folder / "carry" / "carry.json").read_text())
        shutil.rmtree(folder / "carry")
        db_clone.exported(clone, "live", folder / "carry", what="the clone", workers=2, origin=facts["system_identifier"])
        with pytest.raises(Refused, match=r'auditor, odd one\. Make them first: CREATE ROLE "auditor" NOLOGIN; CREATE ROLE "odd one"'):
            act("carried", cluster.dsn(), **carried)
        taken = json.loads((folder / "carry" / "fingerprint.json").read_text())
        taken["catalog"]["extensions"]["postgis"] = {"version": "3.3.2", "schema": "public"}
        (folder / "carry" / "fingerprint.json").write_text(json.dumps(taken))
        from ansible.module_utils.greenroom import durable

        (folder / "carry" / "carry.json").write_text(json.dumps({**facts, "fingerprint": durable.digest(taken)}))
        with pytest.raises(Refused, match=r"extensions are missing on this host: postgis 3\.3\.2"):
            act("carried", cluster.dsn(), **carried)
        assert databases(admin) == ["live"]
    finally:
        with clone.connect("live") as there:
            there.execute('ALTER TABLE notes OWNER TO postgres; REVOKE ALL ON notes FROM auditor; DROP ROLE auditor; DROP ROLE "odd one"')


@pytest.mark.parametrize("size", ["3500k", "8500k"])  # the second one is full at a checkpoint only: PostgreSQL makes files with holes
def test_a_full_disk_is_named_before_and_during_and_the_half_database_goes(cluster, admin, carried, folder, size):
    small = folder / f"small{size}"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(small)], check=True)
    try:
        shutil.chown(small, "postgres", "postgres")
        admin.execute(f"CREATE TABLESPACE small LOCATION '{small}'")
        dsn, arguments = cluster.dsn(), (carried["plan"], Path(carried["folder"]), carried["name"])
        with pytest.raises(NoSpaceError, match=r"No space left on device|could not extend|on a full disk"):
            db_carry.carried_over(dsn, *arguments, bin_dir=cluster.bin_dir, tablespace="small", check_space=False)
        assert databases(admin) == ["live"] and rows(cluster) == 10
        facts = Path(carried["folder"]) / "carry" / "carry.json"
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "bytes": 1 << 60}))
        with pytest.raises(NoSpaceError, match=r"the restored database needs .* Nothing was changed"):
            db_carry.carried_over(dsn, *arguments, bin_dir=cluster.bin_dir)
        admin.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_the_clone_must_hold_the_database_and_must_be_no_live_server(cluster, clone, folder, live):
    with pytest.raises(BackupError, match="there was no database live at that moment, only"):
        db_clone.exported(clone, "live", folder / "never", what="x", workers=1)
    assert not (folder / "never").exists()


def test_what_is_in_the_way_of_a_swap_stops_it_before_anything(cluster, admin, live):
    plan = act("planned", cluster.dsn())
    act("copied", cluster.dsn(), plan=plan, name="live_copy")
    with cluster.connect("live") as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('follower', 'pgoutput')")  # before: it awaits open transactions
        connection.execute("BEGIN; INSERT INTO notes VALUES (5000, 1, 'x'); PREPARE TRANSACTION 'forgotten'")
    seen = act("planned", cluster.dsn(), copy="live_copy")
    assert seen["obstacles"]["prepared"] == ["forgotten"] and seen["obstacles"]["slots"] == ["follower"]
    with pytest.raises(Refused, match="prepared: forgotten; slots: follower"):
        act("swapped", cluster.dsn(), plan=plan, name="live_copy", safety=POINT)
    app(cluster).close()
    assert databases(admin) == ["live", "live_copy"]
