"""The database that the benches of backups and restores share: pgbench's tables, and one of jsonb with a GIN index."""

from __future__ import annotations

import subprocess

from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster


def fill(cluster: ScratchCluster, database: str, scale: int, rows: int, env: dict) -> None:
    """Makes `database` with pgbench's tables at `scale` and `rows` rows of jsonb."""
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {database}")
    argv = [f"{cluster.bin_dir}/pgbench", "-i", "-q", "-s", str(scale), database]
    subprocess.run(argv, env=env, check=True, capture_output=True)
    with cluster.connect(database) as connection:
        connection.execute("CREATE TABLE documents (id bigserial PRIMARY KEY, body jsonb)")
        connection.execute(
            "INSERT INTO documents (body) SELECT jsonb_build_object('n', n, 'name', md5(n::text), 'tags', jsonb_build_array(n % 7, n % 11),"
            f" 'text', repeat(md5((n * 7)::text), 6)) FROM generate_series(1, {rows}) n"
        )
        connection.execute("CREATE INDEX ON documents USING gin (body)")
        connection.execute("VACUUM ANALYZE")


def shell(command: str, env: dict) -> None:
    """A pipeline of which every program must succeed; raises CalledProcessError."""
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=env, check=True, stdout=subprocess.DEVNULL)
