"""What the section `backup` of a service contract must mean beyond its schema. Rules as in contract_rules.py; no secret's value is shown.

Sources: 001 §7.1 (backup), §7.2 (restore, RTO and RPO); a backup that dies with its database is none, so the store is another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from .contract_rules import Context
from .problems import Problem

PASSPHRASE = 32  # characters of pgBackRest's passphrase
IDENTITY = re.compile(r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}")
# systemd calls these calendars too; the others of its words (hourly, minutely) would be a backup too many.
WORDS = ("daily", "weekly", "monthly")
DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
CALENDAR = re.compile(
    rf"(?:{DAY}(?:(?:\.\.|,){DAY})* )?"  # Mon..Sat
    r"(?:(?:\d{4}|\*)-)?(?:[\d*,/~.-]+ )?"  # *-*-01
    r"[\d*,/.]{1,20}:[\d*,/.]{1,20}(?::[\d*,/.]{1,20})?(?: UTC)?"  # 01:00
)


def parts(context: Context) -> Iterator[Problem]:
    """There is a database to back up that Greenroom has installed, and limits that what is configured can hold."""
    backup, database = context.contract.get("backup"), context.dependencies.get("database")
    if not backup:
        return
    if not database:
        yield Problem("service.backup", "there is no database to back up", "Add `dependencies.database`, or remove `backup`")
    elif database["mode"] != "installed":
        yield Problem(
            "service.backup",
            "the database is provided: whoever provides it archives and backs it up",
            "Remove `backup` and say in `not_applicable` who does, or write `mode: installed`",
        )
    limits = backup["limits"]
    if backup["rpo_target_s"] < backup["archive_timeout_s"]:
        yield Problem(
            "service.backup.rpo_target_s",
            f"is {backup['rpo_target_s']} s, but a WAL segment may wait {backup['archive_timeout_s']} s before it is archived",
            "Write at least archive_timeout_s, or lower that",
        )
    if limits["rpo_s"] < backup["rpo_target_s"]:
        yield Problem("service.backup.limits.rpo_s", "is below rpo_target_s", "A limit is what must never be exceeded: write a higher one")


def schedules(context: Context) -> Iterator[Problem]:
    """Each schedule is a time of systemd's calendar."""
    backup = context.contract.get("backup")
    for name in ("full", "incremental", "logical") if backup else ():
        text = backup["schedules"][name]
        if text not in WORDS and not CALENDAR.fullmatch(text):
            yield Problem(
                f"service.backup.schedules.{name}",
                "is no time of systemd's calendar that Greenroom takes",
                'Write for example "Sun 01:00", "Mon..Sat 01:00" or "03:00"; `systemd-analyze calendar "…"` shows what it means',
            )


def places(context: Context) -> Iterator[Problem]:
    """The store is not on a database host (it would be lost with it), and the folder is none of the system's own."""
    backup = context.contract.get("backup")
    if not backup:
        return
    host = urlsplit(backup["store"]["endpoint"]).hostname or ""
    if re.fullmatch(r"[0-9.]+", host):
        text = "is an address: pgBackRest compares the names of a certificate, never its addresses"
        yield Problem("service.backup.store.endpoint", text, "Write the name that stands in the store's certificate")
    for name in (context.groups or {}).get("database") or ():
        if host in (name.lower(), str((context.addresses or {}).get(name, name)).lower()):
            yield Problem(
                "service.backup.store.endpoint",
                f"is the database host {name}: whoever loses that host loses its backups too",
                "Write the address of another host",
            )
    if host in ("localhost", "127.0.0.1"):
        yield Problem("service.backup.store.endpoint", "is the database host itself", "Write the address of another host")
    path = backup["local_path"]
    for system in ("/etc", "/usr", "/tmp", "/run", "/proc", "/sys", "/dev", "/boot", "/var/lib/postgresql", "/var/tmp"):
        if path == system or path.startswith(system + "/"):
            yield Problem("service.backup.local_path", f"lies in {system}", "Write a folder of its own, such as /var/backups/greenroom")


def keys(context: Context) -> Iterator[Problem]:
    """What seals backups is strong, and reading has keys of its own where the store tells them apart."""
    if context.secrets is None or "backup" not in context.contract:
        return
    identity = context.secrets.get("vault_db_backup_identity")
    if isinstance(identity, str) and identity and not IDENTITY.fullmatch(identity):
        yield Problem(
            "vault_db_backup_identity",
            "is no private key of age (AGE-SECRET-KEY-1…)",
            "Make one with `age-keygen` and keep a copy where a fire does not reach it: without it no logical backup can be read",
        )
    passphrase = context.secrets.get("vault_db_backup_cipher_passphrase")
    if isinstance(passphrase, str) and 0 < len(passphrase) < PASSPHRASE:
        text = f"is shorter than {PASSPHRASE} characters"
        yield Problem("vault_db_backup_cipher_passphrase", text, "Make one with `openssl rand -base64 48`")
    read, write = (context.secrets.get(f"vault_db_backup_{side}_key_id") for side in ("restore", "store"))
    if read and read == write:
        yield Problem(
            "vault_db_backup_restore_key_id",
            "is also the key that writes: a drill could overwrite or delete backups",
            "Make a key in the store that may only read",
        )


BACKUP_RULES: list[tuple[tuple[str, ...], Callable[[Context], Iterator[Problem]]]] = [
    (("backup", "dependencies"), parts),
    (("backup",), schedules),
    (("backup",), places),
    (("backup",), keys),
]
