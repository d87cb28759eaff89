"""Rows for every kind of column, and what may not be passed over; the module from its arguments to its result."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster
from ansible.module_utils.greenroom.rehearsal import catalog, growth, report, seed, state, statements
from ansible.module_utils.greenroom.rehearsal.ground import Ground, Options
from ansible.module_utils.testing import patch_module_args

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import ROOT, Project, make_venv, open_folder

EVERY_TYPE = """
    smallint; integer; bigint; numeric; numeric(8,3); real; double precision; money; boolean; text; varchar(5);
    char(3); "char"; name; uuid; date; time; timetz; timestamp; timestamptz(3); interval; bytea; json; jsonb; xml;
    inet; cidr; macaddr; macaddr8; bit(4); varbit(9); point; line; lseg; box; path; polygon; circle; tsvector; tsquery;
    pg_lsn; jsonpath; int4range; numrange; tstzrange; daterange; int4multirange; integer[]; text[]; jsonb[]; mood;
    mood[]; email; pair; oid; xid8
""".replace("\n   ", "").strip().split("; ")
TYPES = (
    "CREATE TYPE mood AS ENUM ('a b', 'c''d', 'e'); CREATE TYPE pair AS (one integer, other text);"
    "CREATE DOMAIN email AS varchar(60) CHECK (VALUE ~ '^[^@]+@[^@]+$')"
)


@pytest.fixture(scope="module")
def folder():
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def cluster(folder):
    with ScratchCluster(folder / "c") as one:
        yield one


@pytest.fixture
def database(cluster, request):
    """A function that runs SQL in a new database, and its connection."""
    name = f"seed_{abs(hash(request.node.name)) % 10**8}"
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {name}")
    with cluster.connect(name) as connection:
        connection.execute(catalog.SETTINGS)
        yield connection


def filled(connection, start=0, **reasons):
    return seed.seed(connection, catalog.read(connection), start, reasons)


def rows(connection, query):
    return connection.execute(query).fetchall()


def test_every_type_gets_values(database):
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(EVERY_TYPE))
    database.execute(f"{TYPES}; CREATE TABLE zoo (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {columns})")
    seeded = filled(database)
    assert seeded.gaps == [] and seeded.rows["zoo"] >= 8
    for number, kind in enumerate(EVERY_TYPE):
        ((values, nulls),) = rows(database, f"SELECT count(DISTINCT c{number}::text), count(*) - count(c{number}) FROM zoo")
        assert values >= 1 and nulls >= 1, kind
        assert values >= 2 or kind in ("line", "int4multirange"), kind
    text, mood = EVERY_TYPE.index("text"), EVERY_TYPE.index("mood")
    ((longest, empty),) = rows(database, f"SELECT max(length(c{text})), count(*) FILTER (WHERE c{text} = '') FROM zoo")
    assert longest >= 2000 and empty >= 1
    assert rows(database, f"SELECT count(DISTINCT c{mood}) FROM zoo") == [(3,)]
    assert filled(database, 5000).gaps == []


def test_rules_of_the_tables_are_kept(database):
    database.execute(
        """
        CREATE TABLE parents (a integer, b text, PRIMARY KEY (a, b), low numeric, high numeric, CHECK (low < high));
        CREATE TABLE children (id serial PRIMARY KEY, a integer, b text, FOREIGN KEY (a, b) REFERENCES parents, code text NOT NULL
            CHECK (code ~ '^[A-Z]{3}$'), rate integer NOT NULL CHECK (rate BETWEEN 1 AND 5), since date NOT NULL, until date,
            CHECK (until > since), kind text NOT NULL CHECK (kind IN ('x', 'y', 'z')), short text CHECK (char_length(short) = 2));
        CREATE TABLE ones (parent integer PRIMARY KEY REFERENCES children, note text UNIQUE);
        CREATE TABLE tree (id bigint PRIMARY KEY, above bigint NOT NULL REFERENCES tree);
        CREATE TABLE ring_a (id integer PRIMARY KEY, b integer);
        CREATE TABLE ring_b (id integer PRIMARY KEY, a integer NOT NULL REFERENCES ring_a);
        ALTER TABLE ring_a ADD FOREIGN KEY (b) REFERENCES ring_b;
        CREATE TABLE periods (during tstzrange, EXCLUDE USING gist (during WITH &&));
        CREATE TABLE parts (k text, v integer) PARTITION BY LIST (k);
        CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a', 'b');
        CREATE TABLE days (d date NOT NULL) PARTITION BY RANGE (d);
        CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('1999-01-01') TO ('2000-01-01');
        CREATE TABLE forced (id integer GENERATED ALWAYS AS IDENTITY, v integer, w integer GENERATED ALWAYS AS (v * 2) STORED)
        """
    )
    seeded = filled(database)
    assert [gap for gap in seeded.gaps if not gap["reason"]] == []
    assert all(count > 0 for count in seeded.rows.values()), seeded.rows
    assert {gap["table"] for gap in seeded.gaps} == {"parts_a", "days_1"}
    assert rows(database, "SELECT count(DISTINCT kind) FROM children") == [(3,)]
    assert rows(database, "SELECT count(b) > 0 FROM ring_a") == [(True,)]
    assert rows(database, "SELECT count(*) > 1 FROM tree WHERE above <> id") == [(True,)]
    again = filled(database, 10_000)
    assert all(count > 0 for count in again.rows.values()), again.rows


def test_doubles_are_there_where_they_may_be(database):
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, once text UNIQUE, often text)")
    filled(database)
    assert rows(database, "SELECT count(*) > count(DISTINCT often) FROM t WHERE often IS NOT NULL") == [(True,)]


def test_what_cannot_be_filled_is_a_gap_with_its_reason_or_none(database):
    database.execute(
        "CREATE TABLE closed (id integer CHECK (id < 0 AND id > 0), note text NOT NULL);"
        "CREATE TABLE odd (id integer PRIMARY KEY, r regrole)"
    )
    gaps = {(gap["table"], gap["column"]): gap for gap in filled(database).gaps}
    assert gaps["odd", "r"]["reason"] is None and "no value" in gaps["odd", "r"]["why"]
    with_reason = {(gap["table"], gap["column"]): gap["reason"] for gap in filled(database, 9000, **{"odd.r": "nobody writes it"}).gaps}
    assert with_reason["odd", "r"] == "nobody writes it"
    database.execute("DELETE FROM closed; ALTER TABLE closed ADD CHECK (false)")
    gaps = {(gap["table"], gap["column"]): gap for gap in filled(database, 20_000).gaps}
    assert gaps["closed", None]["reason"] is None and "violates check constraint" in gaps["closed", None]["why"]


def test_tables_grow_with_their_parents(database):
    database.execute(
        "CREATE TABLE parents (id uuid PRIMARY KEY, code varchar(12) UNIQUE, feels text CHECK (feels IN ('x', 'y')));"
        "CREATE TABLE children (parent uuid REFERENCES parents, n integer, PRIMARY KEY (parent, n), body jsonb)"
    )
    made = catalog.read(database)
    seeded = seed.seed(database, made)
    assert growth.grow(database, made, seeded, [made.by_label("children")], 1, 3000) == {}
    assert growth.grow(database, made, seeded, [made.by_label("children")], 3001, 5000) == {}
    assert rows(database, "SELECT count(*) >= 5000, count(DISTINCT parent) >= 5000 FROM children") == [(True, True)]


def test_states_differ_by_what_changed_and_by_nothing_else(cluster, database):
    database.execute("CREATE TABLE t (id serial PRIMARY KEY, a text, b integer); CREATE TABLE loose (w text); GRANT SELECT ON t TO PUBLIC")
    filled(database)
    name = database.info.dbname
    first = state.take(cluster, name, database)
    assert state.schema_differences(first, state.take(cluster, name, database)) == ([], False)
    seen = []
    for change in (
        "UPDATE t SET b = b + 1 WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "DELETE FROM loose WHERE w = ''",
        "UPDATE t SET a = NULL WHERE id = 1",
    ):
        database.execute(change)
        second = state.take(cluster, name, database)
        seen.append({(loss.table, loss.column, loss.rows) for loss in state.row_losses(first, second)})
        first = second
    assert seen == [{("t", "b", 1)}, {("t", None, 1)}, {("loose", None, 1)}, {("t", "a", 1)}]
    for change in (
        "REVOKE SELECT ON t FROM PUBLIC", "ALTER TABLE t ALTER b SET DEFAULT 3", "COMMENT ON TABLE t IS 'x'", "CREATE INDEX i ON t (b)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "ALTER TABLE t SET (fillfactor = 50)", "ALTER INDEX i SET (fillfactor = 50)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass", "ALTER SEQUENCE t_id_seq INCREMENT 2",
        "ALTER TABLE t ADD CHECK (b > -9) NOT VALID", "ALTER TABLE t OWNER TO pg_monitor",
    ):  # fmt: skip
        database.execute(change)
        second = state.take(cluster, name, database)
        lines, moved = state.schema_differences(first, second)
        assert lines and not moved, change
        first = second
    database.execute("SELECT setval('t_id_seq', 1)")
    assert "t_id_seq was at" in state.sequence_losses(first, state.take(cluster, name, database))[0]


def test_the_migrating_user_reaches_the_socket_and_is_no_superuser(folder):
    if os.geteuid() != 0:
        pytest.fail("this test needs root: it becomes another user")

    class Adapter:
        user, version_tables = "nobody", ()

        def close(self):
            pass

    with ScratchCluster(folder / "u") as one:
        ground = Ground(one, Adapter(), Options(owner="boss"))

        def sql(role, user="nobody"):
            argv = ["runuser", "-u", user, "--", f"{one.bin_dir}/psql", "-X", "-h", str(one.socket_dir), "-p", str(one.port), "-U", role]
            done = subprocess.run([*argv, "-c", "SELECT 1", "postgres"], capture_output=True, text=True, cwd="/", check=False)
            return done.returncode, done.stderr

        wait = time.monotonic() + 5
        while sql("postgres")[0] == 0 and time.monotonic() < wait:
            time.sleep(0.05)
        assert sql("boss") == (0, "")
        assert "Peer authentication failed" in sql("postgres")[1]
        assert "Permission denied" in sql("boss", "daemon")[1]
        one.connect().close()
        ground.close()


def test_statements_are_recorded_by_the_server(folder):
    with ScratchCluster(folder / "r", settings={"shared_preload_libraries": "pg_stat_statements"}) as one, one.connect() as admin:
        admin.execute("CREATE EXTENSION pg_stat_statements; CREATE ROLE app LOGIN")
        admin.execute("CREATE TABLE t (id integer, v text); GRANT ALL ON t TO app")
        with one.connect(user="app") as service:
            service.execute("SELECT v FROM t WHERE id = %s", [7])
            service.execute("SET work_mem = '5MB'; INSERT INTO t VALUES (1, 'a')")
        texts = statements.recorded(admin, "app")
        assert texts == ["INSERT INTO t VALUES ($1, $2)", "SELECT v FROM t WHERE id = $1"]
        trials = [statements.Statement(text, recorded=True) for text in texts]
        good = statements.tried(admin, trials)
        admin.execute("ALTER TABLE t RENAME v TO w")
        assert good == {} and statements.breaks(trials, good, statements.tried(admin, trials)) == [
            'SELECT v FROM t WHERE id = $1: column "v" does not exist'
        ]


@pytest.mark.parametrize("loaded", [True, False])
def test_the_live_database_is_asked_for_rows_and_statements(folder, loaded):
    settings = {"shared_preload_libraries": "pg_stat_statements"} if loaded else {}
    with ScratchCluster(folder / f"o{loaded}", settings=settings) as one:
        with one.connect() as admin:
            admin.execute("CREATE ROLE app LOGIN")
            admin.execute("CREATE DATABASE live OWNER app")
        with one.connect("live", user="app") as service:
            service.execute("CREATE SCHEMA more; CREATE TABLE more.u (id integer); CREATE TABLE public.t (id integer)")
            service.execute("INSERT INTO t SELECT generate_series(1, 1000)")
            service.execute("ANALYZE t")
        given = {"socket": str(one.socket_dir), "port": one.port, "database": "live", "service_role": "app", "superuser": "postgres"}
        before = report.observed(given, write=False)
        assert before == {"rows": {"t": 1000, "more.u": 0}, "statements": []}
        told = report.observed(given, write=True)
        assert told["rows"] == before["rows"]
        assert told["statements"] == (["INSERT INTO t SELECT generate_series($1, $2)"] if loaded else [])
        with one.connect("live") as admin:
            assert admin.execute("SELECT count(*) FROM pg_extension").fetchone()[0] == 1, "the service's own database is left alone"


def test_the_module(folder, capsys):
    spec = importlib.util.spec_from_file_location("migration_rehearsal", ROOT / "plugins" / "modules" / "migration_rehearsal.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(check=False, **arguments):
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    project = Project(folder / "release", make_venv(folder / "venv"), folder / "s")
    project.revise("a", ["CREATE TABLE things (id int PRIMARY KEY, v text)"], ["DROP TABLE things"])
    project.revise("b", ["ALTER TABLE things DROP COLUMN v"], ["ALTER TABLE things ADD COLUMN v text"])
    file = folder / "manifest.json"
    given = {"manifest": str(file), "release": str(project.folder), "folder": str(folder / "w"), "owner": "boss"}
    dry = call(check=True, current=["a"], **given)
    assert dry["failed"] and not dry["changed"] and not file.exists() and dry["verdicts"] == {"b": "DESTRUCTIVE"}
    red = call(current=["a"], **given)
    assert red["failed"] and red["changed"] and {one["code"] for one in red["blockers"]} == {"DESTRUCTIVE", "OLD_APP_BREAKS"}
    assert "Nothing live was touched" in red["msg"] and "things.v" in red["msg"]
    assert {one["id"]: one["status"] for one in red["evidence"]} == {
        "rehearsal.verdict": "fail", "rehearsal.control": "pass", "protect.migration_rollback.test": "fail",
        "protect.migration_rollback.data": "fail",
    }  # fmt: skip
    waiver = {"revision": "b", "code": "OLD_APP_BREAKS", "reason": "nothing serves yet", "owner": "Anna", "expiry": "2999-01-01"}
    good = call(state="judged", manifest=str(file), pending=["b"], side_copies=True, waivers=[waiver])
    assert not good.get("failed") and good["blockers"] == [] and good["side_copy"] == {"b": [{"table": "things", "columns": ["v"]}]}
    assert {one["status"] for one in good["evidence"]} == {"pass"} and not good["changed"]
    (schema, copy) = good["copy_before"]["b"]
    assert "_rb_b" in schema and copy == 'CREATE TABLE "_rb_b"."things" AS SELECT "id", "v" FROM "public"."things"'
    newest = call(current=["b"], newest=True, **{**given, "manifest": str(folder / "newest.json")})
    assert newest["verdicts"] == {"b": "DESTRUCTIVE"} and newest["failed"], "nothing is pending: what a way back would undo first"
    nothing = call(current=["b"], **{**given, "manifest": str(folder / "none.json")})
    assert not nothing.get("failed") and nothing["verdicts"] == {} and "nothing is pending" in nothing["msg"]
    for arguments, words in (
        ({**given, "release": str(folder / "nowhere")}, "Install the release on this host first"),
        ({**given, "release": None}, "`release` is missing"),
        ({"state": "judged", "manifest": str(folder / "absent.json")}, "Rehearse the migration again"),
        ({**given, "current": ["zz"]}, "does not contain"),
        ({**given, "user": "nobody-at-all"}, "nobody-at-all"),
    ):
        broken = call(**{key: value for key, value in arguments.items() if value is not None})
        assert broken["failed"] and words in broken["msg"], broken["msg"]
        assert broken["evidence"][0]["status"] == "error"
