"""The corpus of bad restores: what each kind of check catches of it, and that the full fingerprint catches all of it."""

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom.backup import dump, fingerprint, manifest, restore, seal
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import CLUSTER, DATABASE

FAULTS = yaml.safe_load(Path(__file__).with_name("backup_content_faults.yml").read_text(encoding="utf-8"))
# ALTER DATABASE belongs to the name, so a copy of the database must get it again.
SETTINGS = [statement for statement in CLUSTER if "DATABASE" in statement and "CREATE" not in statement]
SETTINGS += [f"COMMENT ON DATABASE {DATABASE} IS 'the shop'"]


@pytest.fixture
def restored(site, backup, tmp_path_factory):
    """(cluster with the restored backup, the fingerprint of its snapshot). The database is a template for copies."""
    place, folder = site.places()[1], site.folder / "restored"
    document = manifest.parse(place.read(f"{backup['id']}/{manifest.MANIFEST}"))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inside").mkdir(parents=True)
    folder.chmod(0o755)
    place.fetch(f"{backup['id']}/{manifest.DATA}", folder / "sealed")
    seal.unpack(folder / "sealed", folder / "inside", site.identity)
    with ScratchCluster(folder / "cluster") as cluster:
        restore.restore(folder / "inside", document, cluster)
        before = yaml.safe_load((folder / "inside" / "fingerprint.json").read_text(encoding="utf-8"))
        yield cluster, before


def copy_of(cluster):
    """A fresh copy of the restored database under its own name."""
    with cluster.connect() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE good STRATEGY file_copy OWNER shop_owner")
        for statement in SETTINGS:
            connection.execute(statement)


def caught_by(before, after):
    """The checks that see a difference, from the weakest to the strongest."""
    found = set()
    one, other = before["tables"], after["tables"]
    if not other:
        found.add("there are tables")
    if set(one) != set(other):
        found.add("names of tables")
    if {name: table["rows"] for name, table in one.items()} != {name: table["rows"] for name, table in other.items()}:
        found.add("counts of rows")
    if {name: table["sha256"] for name, table in one.items()} != {name: table["sha256"] for name, table in other.items()}:
        found.add("hashes of rows")
    if fingerprint.differences(before, after):
        found.add("fingerprint")
    return found


@pytest.mark.timeout(300)
def test_the_fingerprint_catches_all_of_the_corpus_and_counting_does_not(restored):
    cluster, before = restored
    with cluster.connect() as connection:
        connection.execute(f"ALTER DATABASE {DATABASE} RENAME TO good")
    copy_of(cluster)
    clean = fingerprint.take(cluster.dsn(DATABASE), bin_dir=cluster.bin_dir, like=before)
    # One check constraint is written differently after a reload; asked about that, the comparison knows that nothing differs.
    assert [text.split(";")[0] for text in fingerprint.differences(before, clean)] == ["schema: customers"]
    reload = partial(restore.reloaded_schema, cluster, DATABASE)
    assert fingerprint.differences(before, clean, reload=reload) == [], "a false alarm: the copy is good"
    before = {**before, "schema": clean["schema"]}
    caught, missed, silent = {}, [], []
    for fault in FAULTS:
        copy_of(cluster)
        with cluster.connect(DATABASE) as connection:
            connection.execute("BEGIN; SET session_replication_role = replica; " + fault["sql"].replace("%", "%%") + "; COMMIT")
        after = fingerprint.take(cluster.dsn(DATABASE), bin_dir=cluster.bin_dir, like=before)
        seen = caught_by(before, after)
        for check in seen:
            caught[check] = caught.get(check, 0) + 1
        if "fingerprint" not in seen:
            missed.append(fault["name"])
        elif not all(len(text) > 10 for text in fingerprint.differences(before, after)):
            silent.append(fault["name"])
        if "undo" in fault:
            with cluster.connect() as connection:
                connection.execute(fault["undo"])
    copy_of(cluster)
    assert missed == [] and silent == []
    assert caught["fingerprint"] == len(FAULTS) == 68
    assert "there are tables" not in caught
    # What weaker checks see: the reason for the strong one. Counted, so that a change of the corpus or of a check shows.
    assert {name: caught[name] for name in ("names of tables", "counts of rows", "hashes of rows")} == {
        "names of tables": 2,
        "counts of rows": 7,
        "hashes of rows": 19,
    }


def test_another_locale_or_encoding_is_seen(restored):
    cluster, before = restored
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE other TEMPLATE template0 LOCALE 'POSIX' ENCODING 'SQL_ASCII'")
    after = fingerprint.take(cluster.dsn("other"), bin_dir=cluster.bin_dir)
    found = fingerprint.differences(before, {**after, "tables": before["tables"]})
    assert any("database: collate" in text for text in found) and any("database: encoding" in text for text in found)


def test_a_missing_row_is_found_in_its_range_and_a_text_names_it(restored):
    cluster, before = restored
    with cluster.connect(DATABASE) as connection:
        connection.execute("DELETE FROM readings WHERE id = 225000")
    after = fingerprint.take(cluster.dsn(DATABASE), bin_dir=cluster.bin_dir, like=before, tables=["public.readings"])
    text = fingerprint.differences({"tables": {"public.readings": before["tables"]["public.readings"]}}, after)
    assert text == ["table public.readings: 14999 rows instead of 15000, where id is in [131072, 262144)"]


def test_nothing_compared_is_an_error_and_not_equality(restored):
    cluster, before = restored
    with pytest.raises(BackupError, match="without tables compares nothing"):
        fingerprint.differences(before, {**before, "tables": {}})
    with pytest.raises(BackupError, match=r"no table public\.nothing"):
        fingerprint.take(cluster.dsn(DATABASE), bin_dir=cluster.bin_dir, tables=["public.nothing"])
    with pytest.raises(BackupError, match="tables only"):
        fingerprint.differences(before, {"tables": before["tables"]})
    with cluster.connect() as connection:
        connection.execute(f"CREATE ROLE weak LOGIN; GRANT pg_read_all_data TO weak; GRANT CONNECT ON DATABASE {DATABASE} TO weak")
    dsn = cluster.dsn(DATABASE) | {"user": "weak"}
    with pytest.raises(BackupError, match=r"database shop: .*row-level security"):
        fingerprint.take(dsn, bin_dir=cluster.bin_dir)
    with pytest.raises(BackupError, match=r"database none: .*does not exist"):
        fingerprint.take(cluster.dsn("none"), bin_dir=cluster.bin_dir)


def test_dump_is_the_source_of_the_fingerprint(backup):
    assert backup["tables"] == 11 and backup["rows"] > 15000 and dump.JOBS == 2
