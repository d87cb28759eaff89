"""pgBackRest's commands with list arguments, and what they did, judged by the repository and never by the exit status alone.

pgBackRest 2.45 ends with 0 after a backup with a corrupt page (only the error flag of `info` shows it), after `verify` found errors, and
after `info` could not reach a store. So: a backup counts when it stands in `info` without its error flag; `info`'s status of each
repository is read. `backup` writes one repository only, so it is run for each; what expires is decided here (`expiry.py`).
Codes of its errors: the user guide and `src/build/error/error.yaml` of pgBackRest.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..masking import redact
from .errors import BackupError, BusyError, NoSpaceError, no_space
from .pipeline import argv_of

PROGRAM = "pgbackrest"
FULL_MAXIMUM = 9999999  # "retain full backups indefinitely"; without a number it only warns and never removes WAL
VERIFIED = "greenroom-verified"  # annotation: when a restore of this backup was proved (ISO 8601, UTC)
PROOF = "greenroom-proof"  # annotation: SHA-256 of that proof

# exit status -> what to do next. {repo}, {config} and {stanza} are filled in.
ADVICE = {
    26: "a file in the repository does not have its checksum: it was damaged there. Use the other repository, then take a new backup",
    28: "the stanza belongs to another cluster (system identifier or version), or its info files are damaged. Compare the stanza in"
    " {config} with the server; after an upgrade of PostgreSQL: pgbackrest --config={config} --stanza={stanza} stanza-upgrade",
    29: "the repository's files do not read. Is the cipher passphrase of {config} the one it was written with?",
    37: "{config} lacks an option for stanza {stanza}. Is the stanza's name right, and the file complete?",
    38: "a server runs on that data folder. Restore into a new folder instead",
    40: "the target folder is not empty. Give a new one: a restore never goes over data",
    42: "the store did not answer. Is it up and reachable from here?",
    44: "the archive belongs to another cluster or version than this server. Compare the stanza in {config} with the server",
    45: "the archive holds another segment of the same name: two servers archive into one stanza. Find the second before anything else",
    49: "the store cannot be reached. Is it up, are its name and port in {config} right?",
    51: "the repository belongs to another cluster (system identifier). Compare the stanza in {config} with the server",
    55: "the repository lacks it. Was stanza-create run, are path, bucket and stanza {stanza} in {config} right?",
    56: "PostgreSQL cannot be reached. Is it up, are pg1-path, pg1-port and pg1-socket-path in {config} right?",
    73: "a folder is missing. Are the paths in {config} right?",
    75: "no such backup. `pgbackrest --config={config} --stanza={stanza} info` lists those there are",
    82: "a WAL segment did not reach the archive in time. Look at pg_stat_archiver and PostgreSQL's log: archive_command fails, or it lies",
    87: "archive_mode is off, so there is no way to a point in time. Set archive_mode=on and restart PostgreSQL",
    103: "no repository could be used. Is the store up? See the lines above, one a repository",
}
PATTERNS = (
    (
        r"cipher header invalid|outside of section|unable to flush|error:1C80006[0-9A-F]|bad decrypt",
        "the cipher passphrase in {config} is not the one it was written with, or the file is damaged. Compare it with the one in escrow",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|\b403\b",
        "the store refuses the key. Compare repo*-s3-key and its secret in {config} with the store's",
    ),
    (
        r"unable to verify certificate|certificate common name|certificate presented by",
        "the store's certificate is not trusted for this name. pgBackRest compares DNS names, never addresses; see repo*-storage-ca-file",
    ),
    (r"unable to (?:connect|find host)|Connection refused|HostConnect|timeout after", ADVICE[49]),
)


@dataclass(frozen=True)
class Ran:
    """How a command ended: exit status, its output, seconds."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


def messages(text: str, level: str = "ERROR") -> list[str]:
    """pgBackRest's messages of one level, hints with them, without what looks like a secret."""
    found: list[str] = []
    taking = False
    for line in text.splitlines():
        start = re.match(r"(?:.*P\d\d\s+)?\s*(ERROR|WARN|INFO|DETAIL|ASSERT):\s*(.*)", line)
        if start:
            taking = start.group(1) in (level, "ASSERT")
            if taking:
                found.append(start.group(2).strip())
        elif taking and line.strip() and found:
            found[-1] += f" {line.strip()}"
    return [cleaned(one) for one in found]


def cleaned(text: str) -> str:
    """A message without the request's headers and without bytes that no terminal should get."""
    text = re.sub(r"\*\*\* Path/Query.*?\*\*\* Response Content \*\*\*:", "", text, flags=re.S)
    text = re.sub(r"\*\*\* Request Headers.*", "", text, flags=re.S)
    text = re.sub(r"(found outside of section at line \d+):[^\]]*", r"\1", text, flags=re.S)  # what a wrong passphrase made of a file
    return redact(" ".join("".join(char if char.isascii() and char.isprintable() else " " for char in text).split()))


class PgBackRest:
    """The commands for one stanza.

    stanza: its name. config: pgBackRest's configuration file (holds the secrets; only pgBackRest reads it). user: who runs it when the
    caller is root. options: further options for every command. limit_s: how long one command may take.
    """

    def __init__(
        self, stanza: str, config: str | Path, *, user: str | None = "postgres", options: Iterable[str] = (), limit_s: float = 86400
    ):
        self.stanza, self.config, self.limit_s = stanza, str(config), limit_s
        self.user = user if user and os.geteuid() == 0 else None
        self.options = tuple(options)

    def command(self, name: str, *options: str) -> list[str]:
        """The command's arguments. Retention has a number always: the warnings about its absence would hide others."""
        return [PROGRAM, f"--config={self.config}", f"--stanza={self.stanza}", *self.options, *options, name]

    def run(self, name: str, *options: str, arguments: Iterable[str] = (), ok: tuple[int, ...] = (0,), limit_s: float | None = None) -> Ran:
        """Run one command. Raises BackupError (BusyError, NoSpaceError) with cause and next command unless its status is in `ok`."""
        argv = [*self.command(name, *options), *arguments]
        if shutil.which(PROGRAM) is None:
            raise BackupError(f"{PROGRAM} is not installed. Install it: apt-get install pgbackrest")
        started = time.monotonic()
        identity: dict = {}
        if self.user:
            entry = pwd.getpwnam(self.user)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(self.user, entry.pw_gid)}
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
        try:
            done = subprocess.run(
                argv_of(*argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, cwd="/", env=env,
                timeout=limit_s or self.limit_s, **identity,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BackupError(
                f"pgbackrest {name} did not end within {limit_s or self.limit_s:g} s and was stopped. Is the store slow or gone?"
                f" Try: pgbackrest --config={self.config} --stanza={self.stanza} check"
            ) from None
        ran = Ran(done.returncode, done.stdout, done.stderr, round(time.monotonic() - started, 3))
        if ran.rc not in ok:
            raise self.failure(name, ran)
        return ran

    def failure(self, name: str, ran: Ran) -> BackupError:
        """The error of a command that ended badly: pgBackRest's own words, what they mean, what to do."""
        said = messages(ran.stderr + "\n" + ran.stdout)
        text = "; ".join(dict.fromkeys(said))[:1200] or f"no message, exit status {ran.rc}"
        result = {"command": name, "rc": ran.rc, "stanza": self.stanza, "seconds": ran.seconds}
        if ran.rc == 50:
            return BusyError(
                f"pgbackrest {name}: another command works on stanza {self.stanza}: {text}. Wait for it and try again;"
                f" `pgbackrest --config={self.config} --stanza={self.stanza} info` shows it. Never remove the lock file",
                result,
            )
        if no_space(text):
            return NoSpaceError(f"pgbackrest {name}: the disk is full: {text}. Free space there, then run it again", result)
        advice = next((advice for pattern, advice in PATTERNS if re.search(pattern, text)), None)
        if advice is None and ran.rc < 0:
            advice = f"it was ended by signal {-ran.rc}. Run it again: an unfinished backup is never listed, and is cleaned or resumed"
        advice = advice or ADVICE.get(ran.rc) or "see the same command with --log-level-console=detail"
        advice = advice.format(repo="", config=self.config, stanza=self.stanza)
        return BackupError(f"pgbackrest {name} failed ({ran.rc}): {text}. {advice[0].upper()}{advice[1:]}", result)

    # --- what lies in the repositories ---------------------------------------------------------------------------------------

    def _json(self, name: str, *options: str) -> list | dict:
        """The JSON a command prints. With a wrong passphrase pgBackRest prints raw bytes inside its texts: not strict."""
        ran = self.run(name, *options, "--output=json", limit_s=600)
        try:
            return json.loads(ran.stdout or "[]", strict=False)
        except ValueError:
            raise self.failure(name, Ran(ran.rc, "", f"ERROR: no readable answer: {cleaned(ran.stdout[:300])}", ran.seconds)) from None

    def info(self, repo: int) -> dict:
        """`info` of one repository: its stanza's entry. Raises BackupError if it has no such stanza or does not read."""
        entries = self._json("info", f"--repo={repo}")
        entry = next((one for one in entries if one.get("name") == self.stanza), None)
        codes = [one["status"]["code"] for one in entry.get("repo", [])] if entry else []
        if entry is None or 1 in codes:  # 1: missing stanza path
            raise BackupError(
                f"repository {repo} has no stanza {self.stanza}. Is its name right? Make it on the database host:"
                f" pgbackrest --config={self.config} --stanza={self.stanza} stanza-create"
            )
        for status in [one["status"] for one in entry.get("repo", []) if one.get("key") == repo] or [entry["status"]]:
            if status["code"] not in (0, 2):  # 2: no valid backups, which the caller judges
                text = status.get("message", "")
                raise self.failure(f"info of repository {repo}", Ran(status["code"], "", f"ERROR: {cleaned(text)}", 0.0))
        return entry

    def backups(self, repo: int, info: dict | None = None) -> list[dict]:
        """The finished backups of a repository, oldest first, as plain dicts (see `plain_backup`)."""
        entry = info or self.info(repo)
        systems = {(one["repo-key"], one["id"]): one for one in entry.get("db", [])}
        return [plain_backup(one, systems) for one in entry.get("backup", []) if one["database"]["repo-key"] == repo]

    def error_details(self, repo: int, label: str) -> list[str]:
        """Files of a backup in which pages were corrupt, as `info --set` lists them."""
        entries = self._json("info", f"--repo={repo}", f"--set={label}")
        listed = [one for entry in entries for backup in entry.get("backup", []) for one in backup.get("error-list") or []]
        return [str(one.get("name", one)) if isinstance(one, dict) else str(one) for one in listed]

    def archived(self, repo: int, archive_id: str) -> set[str]:
        """Names of the WAL segments (24 hex digits), and of history files, that one repository's archive holds."""
        path = f"archive/{self.stanza}/{archive_id}"
        ran = self.run("repo-ls", f"--repo={repo}", "--recurse", "--output=json", arguments=[path], limit_s=600)
        names = [key.rsplit("/", 1)[-1] for key, value in json.loads(ran.stdout or "{}").items() if value.get("type") == "file"]
        return {name[:24] if re.fullmatch(r"[0-9A-F]{24}-[0-9a-f]{40}.*", name) else name for name in names}

    # --- making and marking backups --------------------------------------------------------------------------------------------

    def backup(self, repo: int, kind: str = "incr", *, annotations: dict[str, str] | None = None) -> dict:
        """Take a backup (kind: full, diff, incr) into one repository; the dict of `plain_backup` with `seconds`.

        Raises BusyError if one runs, BackupError if none was added or pages were corrupt (`.result` has its label): such a backup
        stays where it is for a person to look at, and is never chosen for a restore by this library.
        """
        before = {one["label"] for one in self.backups(repo)}
        notes = [f"--annotation={key}={value}" for key, value in (annotations or {}).items()]
        ran = self.run("backup", f"--repo={repo}", f"--type={kind}", "--no-expire-auto", "--start-fast", *notes)
        made = [one for one in self.backups(repo) if one["label"] not in before]
        if not made:
            raise BackupError(
                f"pgbackrest backup ended with 0, but repository {repo} lists no new backup of stanza {self.stanza}. Run it again with"
                " --log-level-console=detail", {"rc": ran.rc, "repo": repo},
            )  # fmt: skip
        new = {**made[-1], "seconds": ran.seconds}
        if new["error"]:
            files = self.error_details(repo, new["label"])
            raise BackupError(
                f"backup {new['label']} in repository {repo} holds corrupt pages ({', '.join(files) or 'see its log'}), although pgbackrest"
                f" ended with {ran.rc}: the source's data files are damaged. Do not expire older backups; find the table with pg_amcheck,"
                " restore the last verified backup beside, and check this host's disk and memory",
                {**new, "files": files, "rc": ran.rc},
            )
        return new

    def mark_verified(self, repo: int, label: str, at: str, proof: str = "") -> None:
        """Write into the repository that a restore of this backup was proved at `at` (ISO 8601): retention then keeps the last such one."""
        notes = [f"--annotation={VERIFIED}={at}", *([f"--annotation={PROOF}={proof}"] if proof else [])]
        self.run("annotate", f"--repo={repo}", f"--set={label}", *notes)

    def expire(self, repo: int, label: str) -> None:
        """Remove one backup, those that need it, and WAL that no backup needs any more. What may go: `expiry.to_expire`.

        The number of remaining full backups is given as retention, exactly: pgBackRest then removes no other backup, but the WAL older
        than the oldest one.
        """
        full = [one for one in self.backups(repo) if one["type"] == "full"]
        self.run("expire", f"--repo={repo}", f"--set={label}", f"--repo{repo}-retention-full={max(1, len(full) - 1)}")
        left = [one["label"] for one in self.backups(repo)]
        lost = [one["label"] for one in full if one["label"] != label and one["label"] not in left]
        if label in left or lost:
            raise BackupError(
                f"pgbackrest expire of {label} in repository {repo} left it ({label in left}) or removed others: {lost}. Stop expiring,"
                " and compare with `pgbackrest info`"
            )

    def verify(self, repo: int) -> str:
        """pgBackRest's own `verify` of every file in a repository; its summary. Its exit status is 0 on errors too, so the text decides."""
        self.info(repo)  # what does not read at all has its own cause
        ran = self.run("verify", f"--repo={repo}", "--output=text", "--verbose")
        status = re.search(r"status:\s*(\w+)", ran.stdout)
        if not status or status.group(1) != "ok":
            raise BackupError(
                f"repository {repo} of stanza {self.stanza} is damaged: {' '.join(ran.stdout.split())[:800]}. Restore from the other"
                " repository if need be, take a full backup into this one, then find out what changed the files",
                {"repo": repo, "rc": ran.rc, "output": ran.stdout[-4000:]},
            )
        return ran.stdout


def plain_backup(one: dict, systems: dict) -> dict:
    """A backup of `info` as a plain dict.

    label, type, repo, error (bool, None if pgBackRest does not say), started, stopped (epoch seconds), wal_start, wal_stop (segments),
    lsn_start, lsn_stop, size (bytes in the cluster), repo_size (bytes it added), system_identifier, version, archive_id, prior,
    annotations.
    """
    system = systems.get((one["database"]["repo-key"], one["database"]["id"]), {})
    return {
        "label": one["label"], "type": one["type"], "repo": one["database"]["repo-key"], "error": one.get("error"),
        "started": one["timestamp"]["start"], "stopped": one["timestamp"]["stop"],
        "wal_start": one["archive"]["start"], "wal_stop": one["archive"]["stop"],
        "lsn_start": (one.get("lsn") or {}).get("start"), "lsn_stop": (one.get("lsn") or {}).get("stop"),
        "size": one["info"]["size"], "repo_size": one["info"]["repository"].get("delta"),
        "system_identifier": str(system.get("system-id", "")), "version": system.get("version"),
        "archive_id": f"{system.get('version')}-{one['database']['id']}", "prior": one.get("prior"),
        "annotations": one.get("annotation") or {},
    }  # fmt: skip


def judge(
    backups: list[dict], repo: int, *, system_identifier: str | None, max_age_s: float | None, now: float
) -> tuple[dict | None, list[str]]:
    """(the newest backup that may be restored, problems of this repository).

    system_identifier: of the live server, None if unknown. max_age_s: how old the newest good backup may be. now: epoch seconds.
    """
    problems = [f"repository {repo}: backup {one['label']} holds corrupt pages (error flag)" for one in backups if one["error"]]
    good = [one for one in backups if one["error"] is False]
    if system_identifier:
        other = [one["label"] for one in good if one["system_identifier"] != system_identifier]
        good = [one for one in good if one["system_identifier"] == system_identifier]
        if other:
            problems.append(f"repository {repo}: {len(other)} backups are of another cluster than {system_identifier}, e.g. {other[-1]}")
    if not good:
        return None, [*problems, f"repository {repo}: no backup that could be restored. Take one: --type=full --repo={repo} backup"]
    newest = max(good, key=lambda one: one["stopped"])
    age = now - newest["stopped"]
    if max_age_s is not None and age > max_age_s:
        problems.append(
            f"repository {repo}: the newest backup {newest['label']} is {age:.0f} s old, at most {max_age_s:g} s are allowed."
            " Look at the backup timer's journal, then take one"
        )
    if age < -300:
        problems.append(f"repository {repo}: the newest backup {newest['label']} is {-age:.0f} s in the future. Compare the hosts' clocks")
    return newest, problems
