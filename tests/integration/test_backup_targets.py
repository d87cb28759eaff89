"""Where a restore may go: into an empty scratch cluster and nowhere else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import manifest, restore, seal
from ansible.module_utils.greenroom.backup.errors import ScratchError
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster, assert_scratch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import local_file


@pytest.fixture
def opened(site, backup):
    """(folder with the opened backup, its manifest)"""
    inside = site.folder / "opened"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    seal.unpack(local_file(site, backup), inside, site.identity)
    return inside, manifest.parse(local_file(site, backup, manifest.MANIFEST).read_bytes())


def test_the_live_server_is_never_a_target(site, opened, postgres):
    inside, document = opened

    class Live:
        """What looks like a scratch cluster and leads to a live server."""

        bin_dir, folder, user = site.source.bin_dir, site.folder, None

        def dsn(self, dbname="postgres"):
            return {
                "host": str(postgres.folder),
                "port": postgres.port,
                "user": "postgres",
                "password": postgres.password,
                "dbname": dbname,
            }

        def connect(self, dbname="postgres"):
            import psycopg

            return psycopg.connect(**self.dsn(dbname), autocommit=True)

    databases = postgres.sql("SELECT count(*) FROM pg_database")
    with pytest.raises(ScratchError, match="no scratch cluster: cluster_name") as caught:
        restore.restore(inside, document, Live())
    assert "listens on" in str(caught.value) and "GREENROOM_SCRATCH" in str(caught.value)
    assert postgres.sql("SELECT count(*) FROM pg_database") == databases
    # The source of these tests is itself a scratch cluster: it is refused as the source.
    with pytest.raises(ScratchError, match="the cluster that the backup was taken from"):
        restore.restore(inside, document, site.source)


def test_a_target_that_is_not_empty_is_refused(site, opened):
    inside, document = opened
    with ScratchCluster(site.folder / "full") as cluster:
        with cluster.connect() as connection:
            connection.execute("CREATE TABLE mine (a int)")
        with pytest.raises(ScratchError, match="not empty: it has 1 tables"):
            restore.restore(inside, document, cluster)
        with cluster.connect() as connection:
            connection.execute("DROP TABLE mine")
            connection.execute("CREATE DATABASE other")
        with pytest.raises(ScratchError, match="databases other"):
            restore.restore(inside, document, cluster)


def test_each_mark_of_a_scratch_cluster_is_needed(site, tmp_path_factory):
    with ScratchCluster(site.folder / "marks") as cluster, cluster.connect() as connection:
        assert_scratch(connection)
        marker = cluster.data_dir / "GREENROOM_SCRATCH"
        content = marker.read_text()
        marker.write_text(content.replace("/marks/", "/elsewhere/"))
        with pytest.raises(ScratchError, match="names this folder"):
            assert_scratch(connection)
        marker.unlink()
        with pytest.raises(ScratchError, match="no GREENROOM_SCRATCH"):
            assert_scratch(connection)
        with pytest.raises(ScratchError, match="only a data folder below"):
            ScratchCluster(site.folder / "adopter").adopt(cluster.data_dir)
        with pytest.raises(ScratchError, match=r"has a postmaster\.pid"):
            ScratchCluster(site.folder / "marks").adopt(cluster.data_dir)
        marker.write_text(content)
    with pytest.raises(ScratchError, match=r"locale 'xx_XX\.UTF-8' is missing"):
        ScratchCluster(site.folder / "locale", locale="xx_XX.UTF-8").start()


def test_a_physical_copy_of_a_scratch_cluster_is_adopted_with_its_own_marker(site):
    with ScratchCluster(site.folder / "first", settings={"fsync": "on"}) as first:
        first.connect().execute("ALTER SYSTEM SET archive_mode = on")
        target = site.folder / "second" / "data"
        target.parent.mkdir()
        shutil.chown(target.parent, "postgres") if os.geteuid() == 0 else None
        env = {**os.environ, "PGHOST": str(first.socket_dir), "PGPORT": str(first.port), "PGUSER": "postgres"}
        user = {"user": "postgres", "cwd": "/"} if os.geteuid() == 0 else {}
        argv = [f"{first.bin_dir}/pg_basebackup", "-D", str(target), "-c", "fast", "--no-sync"]
        subprocess.run(argv, env=env, check=True, capture_output=True, timeout=60, **user)
        second = ScratchCluster(site.folder / "second").adopt(target)
        try:
            second.start()
            with second.connect() as connection:
                assert_scratch(connection)
                assert connection.execute("SHOW archive_mode").fetchone() == ("off",)
            assert second.system_identifier == first.system_identifier
        finally:
            second.remove()
