"""The checks checked: damage a copy on purpose and see whether they turn red. What they do not see is returned in words, as `blind`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from ..durable import sha256_file
from . import fingerprint, schema, seal
from .scratch_cluster import ScratchCluster, assert_scratch

SMALL = 64 << 20  # bytes of row text: a table up to this is read again in well under a second


def flip_byte(path: Path) -> int:
    """Change one bit at a random place of a file: its offset."""
    offset = random.randrange(path.stat().st_size)
    with open(path, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 0x01]))
    return offset


def sealed_file(path: Path, sha256: str, identity: Path) -> tuple[list[str], int]:
    """Damage one byte of a fetched copy: (what did not see it, its offset). The copy is of no use afterwards."""
    offset, blind = flip_byte(path), []
    if sha256_file(path) == sha256:
        blind.append(f"the hash did not see that byte {offset} was changed")
    if seal.opens(path, identity) is None:
        blind.append(f"age did not see that byte {offset} was changed")
    return blind, offset


def restored_copy(cluster: ScratchCluster, dbname: str, before: Mapping) -> tuple[list[str], str]:
    """Delete one row of a table in the scratch copy and give a right on it away: (what did not see it, the table).

    before: the full fingerprint that the copy was equal to. Raises ScratchError if `cluster` is none.
    """
    blind = []
    tables = [(one["bytes"], name) for name, one in before["tables"].items() if one["rows"]]
    table = random.choice([name for size, name in tables if size <= SMALL] or [min(tables)[1]])
    with cluster.connect(dbname) as connection:
        assert_scratch(connection)
        connection.execute("SET session_replication_role = replica")  # no trigger and no foreign key in the way
        connection.execute(f"DELETE FROM ONLY {table} WHERE ctid = (SELECT ctid FROM ONLY {table} LIMIT 1)")
        role = f"greenroom_control_{random.getrandbits(48):012x}"  # a new one: nobody has given it that right before
        connection.execute(f"CREATE ROLE {role}; GRANT SELECT ON {table} TO {role}")
        rights = schema.catalog(connection)
    only = {"tables": {table: before["tables"][table]}}
    after = fingerprint.take(cluster.dsn(dbname), workers=1, bin_dir=cluster.bin_dir, like=before, tables=[table])
    if not any(table in text for text in fingerprint.differences(only, after)):
        blind.append(f"the comparison did not see that a row of {table} was deleted")
    if not any(table in text for text in fingerprint.differences(before, {**before, "catalog": rights})):
        blind.append(f"the comparison did not see a new right on {table}")
    return blind, table
