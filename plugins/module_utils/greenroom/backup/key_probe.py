"""Whether a service's key opens what lies encrypted in a restored database: a backup of ciphers without their key is lost data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import BackupError


def probe(connection, wanted: Mapping) -> int:
    """Open every value of one column: how many there are.

    wanted: {table, column, key_file} and, where it is not pgcrypto's pgp_sym_decrypt(column, key), `expression`: SQL with %(key)s.
    connection: of a superuser (psycopg); the key travels as a parameter and stands in no log.
    Raises BackupError, without the key, if one value does not open, the key file is missing, or there is no value to try.
    """
    import psycopg

    name, column = f"{wanted['table']}.{wanted['column']}", wanted["column"]
    try:
        key = Path(wanted["key_file"]).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise BackupError(f"{name}: the key file {wanted['key_file']} cannot be read ({error.strerror}). Bring it from escrow") from error
    found = connection.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pgcrypto'").fetchone()
    if not found and not wanted.get("expression"):
        raise BackupError(f"{name}: the restored database has no extension pgcrypto")
    expression = wanted.get("expression") or f"{found[0]}.pgp_sym_decrypt({column}, %(key)s)"
    query = f"SELECT count(*), count({expression}) FROM {wanted['table']} WHERE {column} IS NOT NULL"
    try:
        total, opened = connection.execute(query, {"key": key}).fetchone()
    except psycopg.Error as error:
        text = str(error).strip().splitlines()[0]
        raise BackupError(f"{name}: does not open with the key in {wanted['key_file']} ({text}). Find the key of that time") from None
    if total == 0:
        raise BackupError(f"{name}: has no value to try the key on. Keep one canary row in it")
    if opened != total:
        raise BackupError(f"{name}: {opened} of {total} values opened with the key in {wanted['key_file']}")
    return total
