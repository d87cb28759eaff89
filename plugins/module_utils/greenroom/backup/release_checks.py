"""The deployed release's own checks of a restored copy: its revision is the release's newest, and its commands read what they expect.

A copy that is equal row for row can still be one that the release cannot use, e.g. of a week ago. The commands run as the service's unix
user, in the release's own virtual environment, as the service's database role; its variable leads to the copy, through the copy's socket.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from ..masking import masked, secret_parts
from ..probes.compare import ABSENT, compare
from ..records import FAIL, NOT_APPLICABLE, PASS, measured, record
from ..rehearsal.adapters import AlembicAdapter, identity
from ..rehearsal.errors import RehearsalError
from .errors import BackupError
from .scratch_cluster import ScratchCluster

ID = "backup.logical.release"
LIMIT_S = 60.0


class ReleaseChecks:
    """What to run against a restored copy; call it with the cluster and the database's name for its evidence (`verify.verify`, also).

    release: folder of the installed release, with venv and src. user: the service's unix user. role: its database role. scheme, url_key: of
    the database's URL and its variable. env: the rest of the environment; secrets: the names in it whose values are never shown.
    commands: [{name, command, expect: {field: value}}]. config: alembic.ini below src, None without migrations.
    """

    def __init__(
        self, *, release: str, user: str, role: str, url_key: str, scheme: str = "postgresql", env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (), commands: Sequence[Mapping] = (), config: str | None = None, limit_s: float = LIMIT_S,
    ):  # fmt: skip
        self.release, self.user, self.role, self.url_key, self.scheme = Path(release), user, role, url_key, scheme
        self.env, self.commands, self.config, self.limit_s = dict(env or {}), list(commands), config, limit_s
        self.hide = secret_parts(self.env[name] for name in secrets if self.env.get(name))

    def __call__(self, cluster: ScratchCluster, database: str) -> list[dict]:
        """A record for the revision and one for each command. Raises BackupError if the user or the release is not there."""
        cluster.admit(self.user)
        socket = quote(str(cluster.socket_dir), safe="")
        url = f"{self.scheme}://{quote(self.role, safe='')}@/{quote(database, safe='')}?host={socket}&port={cluster.port}"
        found = [self._revision(url)] if self.config else []
        found += [self._command(one, url) for one in self.commands]
        nothing = "the service has no migrations, and its contract names no checks (backup.checks)"
        return found or [record(ID, NOT_APPLICABLE, reason=nothing)]

    def _revision(self, url: str) -> dict:
        adapter = AlembicAdapter(str(self.release), config=self.config, url_key=self.url_key, user=self.user, env=self.env)
        try:
            plan = adapter.plan(url)
        except RehearsalError as error:
            raise BackupError(str(error)) from error
        finally:
            adapter.close()
        at, newest = ", ".join(plan["current"]) or "base", ", ".join(plan["heads"])
        good = plan["current"] == plan["heads"]
        why = None if good else f"the copy is at revision {at}, the release's newest is {newest}: the backup is of before the migration"
        return record(ID, PASS if good else FAIL, f"revision {newest}", at, reason=why, detail={"target": "revision"})

    def _command(self, wanted: Mapping, url: str) -> dict:
        made: list[dict] = []
        path = f"{self.release}/venv/bin:/usr/local/bin:/usr/bin:/bin"
        env = {**self.env, "PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", self.url_key: url}
        expected = f"{wanted['name']}: exit status 0" + (f", {wanted['expect']}" if wanted.get("expect") else "")
        with measured(ID, expected, into=made) as check:
            check.detail = {"target": wanted["name"]}
            argv = shlex.split(wanted["command"])
            try:
                done = subprocess.run(
                    argv, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, timeout=self.limit_s,
                    env=env, cwd=self.release / "src", start_new_session=True, **self._program(argv[0]), **identity(self.user),
                )  # fmt: skip
            except OSError as error:
                raise BackupError(f"{argv[0]}: {error.strerror}. Is the release installed in {self.release}?") from error
            except subprocess.TimeoutExpired as error:
                raise BackupError(f"{argv[0]} did not end within {self.limit_s:g} s") from error
            if done.returncode:
                said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                check.judge(False, f"exit status {done.returncode}", masked(f"{argv[0]}: {' '.join(said)[:500]}", self.hide))
            else:
                check.judge(*self._judged(wanted, done.stdout))
        return made[0]

    def _program(self, name: str) -> dict:
        """The release's own program of that name, if it has one: Popen looks it up in this process's PATH, not in the child's."""
        own = self.release / "venv/bin" / name
        return {"executable": str(own)} if os.access(own, os.X_OK) else {}

    @staticmethod
    def _judged(wanted: Mapping, output: str) -> tuple[bool, object, str | None]:
        """(ok, what was seen, why not) of a command that ended well."""
        if not wanted.get("expect"):
            return True, "exit status 0", None
        try:
            document = json.loads(output)
        except ValueError:
            return False, "no JSON", "its output is no JSON, so the expected fields are not there"
        fields = document if isinstance(document, dict) else {}
        found = {key: compare(value, fields.get(key, ABSENT)) for key, value in wanted["expect"].items()}
        wrong = [f"{key} is {seen}" for key, (ok, seen) in found.items() if not ok]
        return not wrong, {key: seen for key, (_ok, seen) in found.items()}, "; ".join(wrong) or None
