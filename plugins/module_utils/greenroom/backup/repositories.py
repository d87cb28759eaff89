"""pgBackRest's two repositories on the database host: the stanza, one backup of one repository, what may be forgotten, and what went wrong.

pgBackRest's exit status alone proves nothing: a backup of a damaged page ends with 0 and tells it only in `info`. So each step looks there
afterwards. `backup` writes one repository; a failure of one must not keep the other from its backup, so they are called one by one.
Sources: 001 §7.1; pgBackRest's user guide (stanza-create, backup, info, expire).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Mapping, Sequence

from .errors import BackupError, NoSpaceError, no_space

KINDS = {"full": "full", "incremental": "incr"}
USER = "postgres"
INFO_S = 120  # one look into a repository may take this long (seconds)

# What pgBackRest says -> what a person must know. First match wins.
CAUSES: Sequence[tuple[str, str]] = (
    (r"\b403\b|SignatureDoesNotMatch|AccessDenied|InvalidAccessKeyId", "the store refuses the key: correct key id and secret "
     "(vault_db_backup_store_… on the database host, vault_db_backup_restore_… on the restore host)"),
    (r"unable to verify certificate|certificate verify failed|unable to find hostname", "the store's certificate is not trusted, or is for "
     "another name: correct service.backup.store.ca, or the name in service.backup.store.endpoint"),
    (r"HostConnectError|unable to connect|unable to get address|timeout connecting|Connection refused", "the store cannot be reached: is "
     "it up, is the endpoint right, does a firewall let this host through?"),
    (r"NoSuchBucket", "the bucket does not exist: make it, or correct service.backup.store.bucket"),
    (r"CryptoError|cipher header invalid|unable to flush|CipherError", "the passphrase is not the one that the repository was made with: "
     "vault_db_backup_cipher_passphrase must never change while backups are kept"),
    (r"unable to acquire lock", "another pgBackRest command of this stanza runs: wait for its end (pgbackrest info)"),
    (r"database system identifier|do not match the database|BackupMismatchError", "the repository is another cluster's: this one was "
     "made anew. Keep the old one's backups elsewhere, then run `pgbackrest stanza-upgrade` as postgres"),
    (r"archive_mode must be enabled|WAL segment .* was not archived|ArchiveTimeout", "the server archives no WAL: look at its log and at "
     "pg_stat_archiver"),
)  # fmt: skip


def explained(text: str) -> str:
    """What pgBackRest said, on one line, with its cause in front where it is a known one."""
    said = " ".join(line.strip() for line in re.sub(r"^\S+ \S+ P\d+ +", "", text, flags=re.M).splitlines() if line.strip())[-1500:]
    for pattern, cause in CAUSES:
        if re.search(pattern, text):
            return f"{cause}. pgBackRest: {said}"
    return f"pgBackRest: {said or 'it said nothing'}"


class Repositories:
    """The repositories of one configuration (`backup.json`). `places` maps a place's name to pgBackRest's number."""

    def __init__(self, config: Mapping):
        physical = config["physical"]
        self.stanza, self.file = physical["stanza"], physical["config_file"]
        self.places = {one["place"]: int(one["key"]) for one in physical["repositories"]}

    def run(self, *arguments: str, timeout_s: float) -> str:
        """Standard output of one command, as the user postgres. Raises BackupError that says why, NoSpaceError for a full disk."""
        argv = ["pgbackrest", f"--config={self.file}", f"--stanza={self.stanza}", *arguments]
        identity = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(USER)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(USER, entry.pw_gid)}
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}  # none of the caller's PGBACKREST_…
        what = f"pgbackrest {arguments[0]}"
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, cwd="/", env=env,
                timeout=timeout_s, **identity,
            )  # fmt: skip
        except FileNotFoundError:
            raise BackupError("pgbackrest is not installed. Run the role db_backup, or apt-get install pgbackrest") from None
        except subprocess.TimeoutExpired:
            raise BackupError(f"{what} took more than {timeout_s:g} s and was ended") from None
        if done.returncode:
            said = done.stderr + done.stdout
            raise (NoSpaceError if no_space(said) else BackupError)(f"{what} ended with status {done.returncode}: {explained(said)}")
        return done.stdout

    def info(self, place: str) -> dict:
        """What one repository holds: {code, message, backups: [{label, type, error, start, stop, size, stored}]}, in s and bytes.

        code 0: sound; 1: no stanza; 2: no backup yet. Raises BackupError if the repository cannot be read.
        """
        told = json.loads(self.run("info", "--output=json", f"--repo={self.places[place]}", timeout_s=INFO_S))
        entry = next((one for one in told if one.get("name") == self.stanza), None)
        if entry is None:
            return {"code": 1, "message": "no stanza", "backups": []}
        key = self.places[place]
        status = next((one["status"] for one in entry.get("repo", []) if one["key"] == key), entry["status"])
        if status["code"] == 99:
            raise BackupError(f"the repository {place} cannot be read: {explained(status['message'])}")
        backups = [
            {"label": one["label"], "type": one["type"], "error": one.get("error"), "start": one["timestamp"]["start"],
             "stop": one["timestamp"]["stop"], "size": one["info"]["size"], "stored": one["info"]["repository"]["size"]}
            for one in entry.get("backup", []) if one["database"]["repo-key"] == key
        ]  # fmt: skip
        return {"code": status["code"], "message": status["message"], "backups": backups}

    def missing(self) -> dict[str, str]:
        """Places without a sound stanza, with the reason. Raises BackupError if one cannot be read."""
        states = {place: self.info(place) for place in self.places}
        return {place: state["message"] for place, state in states.items() if state["code"] in (1, 3, 4, 5, 6)}

    def create_stanza(self) -> None:
        """Make the stanza in every repository; one that is there stays. Raises BackupError."""
        self.run("stanza-create", timeout_s=INFO_S * 2)

    def check(self) -> None:
        """The server archives into every repository: pgBackRest switches a segment and waits for it in each. Raises BackupError."""
        self.run("check", timeout_s=INFO_S * 2)

    def backup(self, place: str, kind: str, timeout_s: float) -> dict:
        """One backup (`full` or `incremental`) into one repository; the entry of `info` about it.

        Raises BackupError if it failed, is not there afterwards, or holds a page whose checksum is wrong.
        """
        before = {one["label"] for one in self.info(place)["backups"]}
        self.run(
            "backup", f"--type={KINDS[kind]}", f"--repo={self.places[place]}", "--no-expire-auto", timeout_s=timeout_s
        )  # fmt: skip
        made = [one for one in self.info(place)["backups"] if one["label"] not in before]
        if not made:
            raise BackupError(f"pgbackrest backup ended with 0, but {place} holds no new backup. Look at /var/log/pgbackrest")
        if made[-1]["error"] is not False:  # absent (null) in versions that do not tell: not a proof either
            raise BackupError(
                f"the backup {made[-1]['label']} in {place} holds a page whose checksum is wrong: the database is damaged. Expire no"
                " older backups; find the relation with `pg_amcheck --all --heapallindexed`, and in /var/log/pgbackrest"
            )
        return made[-1]

    def expire(self, place: str, full: int, days: int, now: float | None = None) -> int:
        """Forget what `full` and `days` do not keep, in one repository; returns how many full backups are kept."""
        keep = fulls_to_keep(self.info(place)["backups"], full, days, time.time() if now is None else now)
        key = self.places[place]
        self.run("expire", f"--repo={key}", f"--repo{key}-retention-full={keep}", timeout_s=INFO_S * 5)
        return keep


def fulls_to_keep(backups: Sequence[Mapping], full: int, days: int, now: float) -> int:
    """How many full backups stay: at least `full`, and so many that each moment of the last `days` days can be reached.

    That needs the newest full backup that ended before those days began. Damaged ones count for nothing: they stay beside the sound ones.
    """
    ends = sorted((one["stop"] for one in backups if one["type"] == "full" and one["error"] is False), reverse=True)
    damaged = sum(1 for one in backups if one["type"] == "full" and one["error"] is not False)
    begin = now - days * 86400
    younger = sum(1 for end in ends if end > begin)
    return max(full, younger + 1) + damaged
