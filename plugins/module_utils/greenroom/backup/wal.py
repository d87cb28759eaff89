"""WAL in the archive: complete from a backup to now, on one timeline path, and really there.

A missing segment is silent: with target "latest" everything succeeds and the rows behind the gap are gone. An archive_command of
`/bin/true` looks healthy in pg_stat_archiver. So the names in the repository are compared with what the server says, and with where it
writes.
Names and sizes: PostgreSQL manual, "WAL Internals"; timelines: "Continuous Archiving and Point-in-Time Recovery".
"""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from .errors import BackupError
from .pgbackrest import PgBackRest

NAME = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)")
POINT = re.compile(r"[A-Za-z0-9_.-]{1,63}")  # pg_create_restore_point takes at most 63 bytes


def lsn(text: str) -> int:
    """`16/B374D848` as bytes from the beginning of WAL."""
    high, _, low = str(text).partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def segment(timeline: int, number: int, size: int) -> str:
    """The name of segment `number` (from 0, `size` bytes each) on a timeline."""
    per_file = 0x100000000 // size
    return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"


def parse(name: str, size: int) -> tuple[int, int]:
    """(timeline, segment number) of a segment's name. Raises ValueError for any other text."""
    if not NAME.fullmatch(name or ""):
        raise ValueError(f"{name!r} is no name of a WAL segment")
    return int(name[:8], 16), int(name[8:16], 16) * (0x100000000 // size) + int(name[16:], 16)


def expected(first: str, last: str, size: int, switches: dict[int, int]) -> list[str]:
    """Every segment from `first` to `last`, on the one timeline path to `last`.

    switches: {timeline: LSN where it was left}, of the timelines before the last one (from its history file). The segment in which a
    timeline was left is expected on the next one only: there its beginning was copied to.
    """
    timeline, start = parse(first, size)
    end_timeline, end = parse(last, size)
    if (timeline, start) > (end_timeline, end) or end < start:
        raise ValueError(f"{last} does not come after {first}")
    path = [one for one in sorted({*switches, timeline, end_timeline}) if timeline <= one <= end_timeline]
    path = [one for one in path if one == end_timeline or one in switches]
    if timeline not in path:
        raise ValueError(f"timeline {timeline} is no ancestor of timeline {end_timeline}")
    names, at = [], start
    for one in path:
        stop = end + 1 if one == end_timeline else switches[one] // size
        names += [segment(one, number, size) for number in range(at, stop)]
        at = max(at, stop)
    return names


def ranges(names: list[str], size: int) -> str:
    """`000000010000000000000003, 000000010000000000000007 to …09 (3)` for people."""
    groups: list[list[str]] = []
    for name in sorted(names):
        last = groups[-1][-1] if groups else ""
        if last and last[:8] == name[:8] and parse(name, size)[1] == parse(last, size)[1] + 1:
            groups[-1].append(name)
        else:
            groups.append([name])
    texts = [group[0] if len(group) == 1 else f"{group[0]} to {group[-1]} ({len(group)})" for group in groups]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more ranges" if len(texts) > 5 else "")


def server_state(connection) -> dict:
    """What the live server says about its WAL: dict with system_identifier, timeline, segment_size (bytes), lsn, segment, archive_mode,
    archive_command, archive_timeout_s, last_archived, last_archived_s (age, s), last_failed, last_failed_s, failed_count, waiting (segments
    marked .ready), pg_wal_bytes, checksums (bool), prepared, slots. Raises BackupError on a standby: WAL positions would be another's."""
    if connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
        raise BackupError("this server is a standby: WAL continuity is measured on the primary. Run it there")
    row = connection.execute(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()), pg_current_wal_lsn()::text,"
        " pg_walfile_name(pg_current_wal_lsn()), current_setting('archive_mode'), current_setting('archive_command'),"
        " current_setting('data_checksums') = 'on',"
        " (SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout'),"
        " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'), a.last_archived_wal,"
        " extract(epoch FROM clock_timestamp() - a.last_archived_time)::float, a.last_failed_wal,"
        " extract(epoch FROM clock_timestamp() - a.last_failed_time)::float, a.failed_count,"
        " (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'), (SELECT sum(size)::bigint FROM pg_ls_waldir())"
        " FROM pg_stat_archiver a"
    ).fetchone()
    keys = (
        "system_identifier", "lsn", "segment", "archive_mode", "archive_command", "checksums", "archive_timeout_s", "segment_size",
        "last_archived", "last_archived_s", "last_failed", "last_failed_s", "failed_count", "waiting", "pg_wal_bytes",
    )  # fmt: skip
    state = dict(zip(keys, row, strict=True))
    state["timeline"] = int(state["segment"][:8], 16)
    state["prepared"] = [one[0] for one in connection.execute("SELECT gid FROM pg_prepared_xacts ORDER BY prepared").fetchall()]
    slots = connection.execute("SELECT slot_name, active, wal_status FROM pg_replication_slots ORDER BY 1").fetchall()
    state["slots"] = [{"name": name, "active": active, "wal_status": status} for name, active, status in slots]
    return state


def timeline_switches(pgbackrest: PgBackRest, repo: int, archive_id: str, timeline: int) -> dict[int, int]:
    """{timeline: LSN where it was left} of the ancestors of `timeline`, from its history file in the repository ({} for timeline 1)."""
    if timeline == 1:
        return {}
    path = f"archive/{pgbackrest.stanza}/{archive_id}/{timeline:08X}.history"
    text = pgbackrest.run("repo-get", f"--repo={repo}", arguments=[path], limit_s=300).stdout
    return {int(match[1]): lsn(match[2]) for line in text.splitlines() if (match := HISTORY.match(line))}


def read_archived(pgbackrest: PgBackRest, repo: int, name: str) -> bytes:
    """A segment or history file as a restore would read it: fetched, decrypted, unpacked, its checksum compared by pgBackRest.

    Raises BackupError if the repository does not give it.
    """
    with tempfile.TemporaryDirectory(prefix="greenroom-wal-") as folder:
        if pgbackrest.user:
            import shutil

            shutil.chown(folder, pgbackrest.user)
        file = Path(folder) / name
        # pg1-path only has to hold relative paths together: nothing of that folder is read.
        ran = pgbackrest.run("archive-get", f"--repo={repo}", arguments=[name, str(file)], ok=(0, 1), limit_s=300)
        if ran.rc == 1 or not file.exists():
            raise BackupError(f"{name} is not in the archive of repository {repo}: archive_command failed, or lies. See PostgreSQL's log")
        return file.read_bytes()


def missing_between(pgbackrest: PgBackRest, repo: int, backup: dict, last: str, size: int) -> tuple[list[str], list[str], set[str]]:
    """(segments needed from a backup's start to segment `last`, those of them that are missing, what the archive holds)."""
    held = pgbackrest.archived(repo, backup["archive_id"])
    switches = timeline_switches(pgbackrest, repo, backup["archive_id"], parse(last, size)[0])
    try:
        wanted = expected(backup["wal_start"], last, size, switches)
    except ValueError as error:
        raise BackupError(f"repository {repo}: backup {backup['label']} does not lead to {last}: {error}. Take a full backup") from error
    return wanted, [name for name in wanted if name not in held], held


def continuity(pgbackrest: PgBackRest, repo: int, backup: dict, state: dict, *, margin_s: float = 60.0) -> tuple[dict, list[str]]:
    """({first, last, segments, missing, newest, behind}, problems): the archive of one repository from the backup's start to now.

    backup: a dict of `plain_backup`. state: of `server_state`, taken before. margin_s: how much longer than archive_timeout the archive
    may be behind. Each problem names the repository, what is wrong, and the next command.
    """
    size, where = state["segment_size"], f"repository {repo}"
    problems: list[str] = []
    if backup["system_identifier"] != state["system_identifier"]:
        problems.append(
            f"{where}: backup {backup['label']} is of cluster {backup['system_identifier']}, the server is {state['system_identifier']}."
            " Compare the stanza with the server, then take a full backup"
        )
    if state["archive_mode"] == "off":
        problems.append("archive_mode is off: nothing is archived. Set it to on and restart PostgreSQL")
    held = pgbackrest.archived(repo, backup["archive_id"])
    segments = {name for name in held if NAME.fullmatch(name)}
    claimed = (state["last_archived"] or "")[:24]  # a backup's label file is named after its segment
    claimed = claimed if NAME.fullmatch(claimed) else None
    newest = max((name for name in segments if int(name[:8], 16) <= state["timeline"]), default=None)
    last = max((name for name in (claimed, newest, backup["wal_stop"]) if name), key=lambda name: (parse(name, size)[1], name))
    observed: dict = {"repo": repo, "first": backup["wal_start"], "last": last, "newest": newest, "segments": 0, "missing": []}
    try:
        switches = timeline_switches(pgbackrest, repo, backup["archive_id"], int(last[:8], 16))
        wanted = expected(backup["wal_start"], last, size, switches)
        observed["missing"] = [name for name in wanted if name not in segments]
        observed["segments"] = len(wanted)
    except (ValueError, BackupError) as error:
        problems.append(f"{where}: no one timeline path from {backup['wal_start']} to {last}: {error}. Take a full backup now")
    if claimed and claimed not in segments and parse(claimed, size)[1] >= parse(backup["wal_start"], size)[1]:
        problems.append(
            f"{where}: the server says that {claimed} is archived, and it is not there (newest: {newest or 'none'}): archive_command lies"
            f" ({state['archive_command'][:80]!r}), or the archive lost it. Correct archive_command, reload, then take a full backup"
        )
    if observed["missing"]:
        problems.append(
            f"{where}: {len(observed['missing'])} of {observed['segments']} WAL segments since backup {backup['label']} are missing:"
            f" {ranges(observed['missing'], size)}. No restore gets past the first gap: take a full backup now"
        )
    observed["behind"] = parse(state["segment"], size)[1] - (parse(newest, size)[1] if newest else parse(backup["wal_start"], size)[1]) - 1
    if observed["behind"] > 0 and not catching_up(state, margin_s):
        problems.append(
            f"{where}: {observed['behind']} finished segments before {state['segment']} are not in the archive (newest: {newest or 'none'};"
            f" {state['waiting']} wait in pg_wal, {state['pg_wal_bytes'] / 1e6:.0f} MB). "
            + (f"archive_command failed last on {state['last_failed']}. " if state["last_failed"] else "")
            + "Look at PostgreSQL's log for archive_command"
        )
    return observed, problems


def catching_up(state: dict, margin_s: float) -> bool:
    """Whether the archiver has work, did not fail last, and its last success is not older than archive_timeout and the margin."""
    done, failed = state["last_archived_s"], state["last_failed_s"]
    if not state["waiting"] or done is None or (failed is not None and failed < done):
        return False
    return done <= state["archive_timeout_s"] + margin_s


# --- restore points ----------------------------------------------------------------------------------------------------------


def point_name(what: str) -> str:
    """A name for a restore point that no other has: recovery stops at the first of that name."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")  # noqa: UP017
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', what)[:35]}_{stamp}_{secrets.token_hex(3)}"


def confirm_point(connection, point: dict, pgbackrest: PgBackRest, repos: tuple[int, ...], timeout_s: float = 60.0) -> dict:
    """Wait until the segment with a restore point is archived in every repository and reads back with the point's name in it.

    point: {name, lsn, segment}. Returns it with `archived_s` and `repos`. Raises BackupError with what the archiver says: nothing
    destructive may follow then.
    """
    started = time.monotonic()
    connection.execute("SELECT pg_switch_wal()")
    last, missing = "", list(repos)
    while True:
        archived = connection.execute("SELECT last_archived_wal, last_failed_wal, archived_count FROM pg_stat_archiver").fetchone()
        if (archived[0] or "")[8:24] >= point["segment"][8:]:
            for repo in list(missing):
                try:
                    if point["name"].encode() in read_archived(pgbackrest, repo, point["segment"]):
                        missing.remove(repo)
                    else:
                        last = f"{point['segment']} in repository {repo} does not hold the point"
                except BackupError as error:
                    last = str(error)
            if not missing:
                return {**point, "archived_s": round(time.monotonic() - started, 3), "repos": list(repos)}
        if time.monotonic() - started > timeout_s:
            break
        time.sleep(0.1)
    raise BackupError(
        f"restore point {point['name']} (segment {point['segment']}) did not reach repository {', '.join(map(str, missing))} within"
        f" {timeout_s:g} s: archived up to {archived[0]}, last failure {archived[1]}. {last} Nothing destructive may follow. Look at"
        f" PostgreSQL's log for archive_command, and try: pgbackrest --config={pgbackrest.config} --stanza={pgbackrest.stanza} check",
        {"point": point, "missing": missing},
    )


def restore_point(connection, name: str, pgbackrest: PgBackRest, repos: tuple[int, ...], timeout_s: float = 60.0) -> dict:
    """Make a restore point and have it confirmed in every repository: {name, lsn, segment, archived_s, repos}."""
    if not POINT.fullmatch(name):
        raise BackupError(f"restore point {name!r}: 1 to 63 letters, digits, dots, hyphens and underscores")
    place = connection.execute("SELECT x::text, pg_walfile_name(x) FROM pg_create_restore_point(%s) x", [name]).fetchone()
    return confirm_point(connection, {"name": name, "lsn": place[0], "segment": place[1]}, pgbackrest, repos, timeout_s)


# --- heartbeat: how much would be lost now -------------------------------------------------------------------------------------


def beat(connection) -> dict:
    """Write one heartbeat into `greenroom.heartbeat` (made if absent; the last day is kept): {id, at, lsn}. Once a second is meant."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS greenroom")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS greenroom.heartbeat (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " at timestamptz NOT NULL DEFAULT clock_timestamp(), lsn pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn())"
    )
    row = connection.execute("INSERT INTO greenroom.heartbeat DEFAULT VALUES RETURNING id, at::text, lsn::text").fetchone()
    connection.execute("DELETE FROM greenroom.heartbeat WHERE at < clock_timestamp() - interval '1 day'")
    return dict(zip(("id", "at", "lsn"), row, strict=True))


def rpo_now(connection, observed: dict, size: int) -> float | None:
    """Seconds that would be lost now: age of the newest heartbeat whose WAL is archived without a gap; None if no heartbeat is.

    observed: of `continuity`. The row's own record begins at its lsn or later, so its whole segment must be there.
    """
    newest, missing = observed["newest"], observed["missing"]
    if newest is None:
        return None
    end = min((parse(name, size)[1] for name in missing), default=parse(newest, size)[1] + 1) * size
    text = f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"
    row = connection.execute(
        # A heartbeat counts when the one after it began inside the archived part too: then its commit did.
        "SELECT extract(epoch FROM clock_timestamp() - max(at))::float FROM greenroom.heartbeat h WHERE EXISTS"
        " (SELECT 1 FROM greenroom.heartbeat n WHERE n.id > h.id AND n.lsn < %s::pg_lsn)", [text],
    ).fetchone()  # fmt: skip
    return row[0]
