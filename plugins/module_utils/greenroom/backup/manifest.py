"""The manifest of a logical backup: what it is of, what it is made of, and what must be found in it. Signed, and written to a place last.

A place holds a backup as `<id>/data.tar.zst.age`, `<id>/manifest.json.sig`, `<id>/manifest.json`, in that order: no manifest, no backup.
The newest is the one whose signed manifest says so; names and times of files are never looked at.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Callable, Mapping

from .errors import BackupError

FORMAT = 1
DATA, MANIFEST, SIGNATURE, LATEST = "data.tar.zst.age", "manifest.json", "manifest.json.sig", "latest.json"
ID = re.compile(r"[a-z][a-z0-9-]*-\d{8}T\d{6}Z-[0-9a-f]{6}")

# key -> type; dotted keys are inside mappings.
_NEEDED = {
    "format": int, "kind": str, "id": str, "service": str, "status": str, "started": str, "finished": str, "snapshot_time": str,
    "source.system_identifier": str, "source.database": str, "source.database_oid": int, "source.server_version": str,
    "source.server_version_num": int, "source.encoding": str, "source.collate": str, "source.ctype": str, "source.superuser": str,
    "source.database_bytes": int, "source.lsn": str, "source.extensions": dict, "contents.tables": int, "contents.rows": int,
    "contents.fingerprint": str, "contents.dump_bytes": int, "seal.recipients": list, "parts": list,
}  # fmt: skip
_NEEDED_OF_PART = {"name": str, "size": int, "sha256": str, "plain_size": int, "plain_sha256": str}


def new_id(service: str, now: datetime.datetime) -> str:
    """`<service>-<UTC time>-<random>`; the time in it is for people."""
    return f"{service}-{now.strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(3)}"


def dump(document: Mapping) -> bytes:
    """The bytes that are signed and stored."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse(content: bytes) -> dict:
    """The manifest in `content`, complete. Raises BackupError that names what is wrong with it."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BackupError(f"the manifest is no JSON ({error}): it is cut or damaged") from error
    if not isinstance(document, dict):
        raise BackupError("the manifest is no JSON object")
    problems = [key for key, kind in _NEEDED.items() if not isinstance(_at(document, key), kind)]
    for number, part in enumerate(document.get("parts") or []):
        problems += [f"parts[{number}].{key}" for key, kind in _NEEDED_OF_PART.items() if not isinstance(part.get(key), kind)]
    if problems:
        raise BackupError(f"the manifest lacks {', '.join(problems)}")
    if document["format"] != FORMAT:
        raise BackupError(f"the manifest has format {document['format']}; this version of Greenroom reads {FORMAT}")
    if document["status"] != "complete" or not document["parts"]:
        raise BackupError(f"the manifest says that the backup is {document['status']!r} with {len(document['parts'])} parts, not complete")
    if not ID.fullmatch(document["id"]):
        raise BackupError(f"the manifest's id {document['id']!r} is none")
    moment(document["snapshot_time"])
    return document


def _at(document: Mapping, dotted: str):
    value: object = document
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def moment(text: str) -> datetime.datetime:
    """A time of the manifest, with zone. Raises BackupError for anything else."""
    try:
        found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise BackupError(f"{text!r} is no time") from error
    if found.tzinfo is None:
        raise BackupError(f"{text!r} has no time zone")
    return found


def age_s(document: Mapping, now: datetime.datetime | None = None) -> float:
    """Seconds since the moment that the backup shows."""
    return ((now or datetime.datetime.now(datetime.timezone.utc)) - moment(document["snapshot_time"])).total_seconds()  # noqa: UP017


def ids(keys: list[str]) -> list[str]:
    """The ids of complete backups among the keys of a place: those that have a manifest."""
    found = [key.split("/")[0] for key in keys if key.count("/") == 1 and key.endswith("/" + MANIFEST)]
    return sorted(one for one in found if ID.fullmatch(one))


def read(store, backup_id: str, verify: Callable[[bytes, bytes], None]) -> dict:
    """The manifest of one backup, its signature checked by `verify(content, signature)`.

    Raises BackupError naming place and backup: no signature, a wrong one, a manifest of another backup.
    """
    where = f"{store.name}: {backup_id}"
    content = store.read(f"{backup_id}/{MANIFEST}")
    try:
        signature = store.read(f"{backup_id}/{SIGNATURE}")
    except FileNotFoundError as error:
        raise BackupError(f"{where}: the manifest has no signature") from error
    try:
        verify(content, signature)
        document = parse(content)
    except BackupError as error:
        raise BackupError(f"{where}: {error}") from error
    if document["id"] != backup_id:
        raise BackupError(f"{where}: holds the manifest of {document['id']}")
    return document


def select(store, verify: Callable[[bytes, bytes], None], backup_id: str | None = None) -> tuple[dict, list[str]]:
    """(manifest of the newest backup of a place, or of `backup_id`; what is wrong with others there).

    Raises BackupError if there is none.
    """
    found = ids(store.keys())
    if backup_id:
        if backup_id not in found:
            raise BackupError(f"{store.name}: has no complete backup {backup_id}. It has: {', '.join(found[-5:]) or 'none'}")
        return read(store, backup_id, verify), []
    good, bad = [], []
    for one in found:
        try:
            good.append(read(store, one, verify))
        except BackupError as error:
            bad.append(str(error))
    if not good:
        raise BackupError(f"{store.name}: has no backup that can be used" + (f": {'; '.join(bad)}" if bad else ". Take one"))
    return max(good, key=lambda document: moment(document["snapshot_time"])), bad
