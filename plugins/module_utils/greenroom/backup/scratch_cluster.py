"""Throw-away PostgreSQL clusters: made by initdb or adopted from a physical restore, reached through a unix socket only, gone afterwards.

Three marks tell one from a live server, and `assert_scratch` wants all of them: `cluster_name`, a marker file in its data folder that
names that folder (a copy of the file elsewhere does not count), and no TCP address. A watcher ends the server when the process that
started it dies, even by `kill -9`.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from .errors import NoSpaceError, ScratchError, no_space
from .pipeline import argv_of

MARKER = "GREENROOM_SCRATCH"
CLUSTER_NAME = "greenroom-scratch"
PORT = 6543  # only a part of the socket's name: every cluster has a socket folder of its own
SOCKET_PATH_MAX = 107  # bytes, of sockaddr_un

# Nothing of a scratch cluster has to survive a crash. `settings` may say otherwise, e.g. {"fsync": "on"}.
SPEED = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "4GB", "autovacuum": "off"}
DEFAULTS = {**SPEED, "timezone": "UTC", "log_timezone": "UTC", "max_connections": "50", "lc_messages": "C"}


def find_bin_dir(major: int | str | None = None) -> str:
    """The folder of PostgreSQL's programs, of version `major` or the newest one installed. Raises ScratchError where there is none."""
    pattern = f"/usr/lib/postgresql/{major or '*'}/bin/initdb"
    found = sorted(glob.glob(pattern), key=lambda path: int(re.sub(r"\D", "", path) or 0))
    if found:
        return str(Path(found[-1]).parent)
    program = shutil.which("initdb")
    if program and not major:
        return str(Path(program).resolve().parent)
    wanted = f"postgresql-{major}" if major else "postgresql"
    raise ScratchError(f"no PostgreSQL programs at {pattern}. Install them: apt-get install {wanted} (no running cluster is needed)")


class ScratchCluster:
    """One throw-away cluster in `folder` (made if absent; afterwards its data is removed).

    bin_dir: of PostgreSQL's programs, the newest installed by default. user: who runs it when the caller is root. settings: server
    settings over DEFAULTS (fsync is off). locale, encoding: of initdb.
    Attributes: socket_dir, port, data_dir, bin_dir, log (its log file), system_identifier (a text; after start).
    `with ScratchCluster(folder) as cluster:` starts it, and stops and removes it at the end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bin_dir: str | None = None,
        user: str | None = "postgres",
        settings: dict | None = None,
        locale: str = "C.UTF-8",
        encoding: str = "UTF8",
    ):
        self.folder = Path(folder).resolve()
        self.bin_dir = bin_dir or find_bin_dir()
        self.user = user if user and os.geteuid() == 0 else None
        self.settings = {**DEFAULTS, **(settings or {})}
        self.locale, self.encoding, self.superuser = locale, encoding, "postgres"
        self.data_dir, self.log, self.port = self.folder / "data", self.folder / "server.log", PORT
        self.socket_dir = self.folder / "socket"
        self.system_identifier = ""
        self._adopted, self._made_socket_dir = False, False
        self._process: subprocess.Popen | None = None
        self._watcher: subprocess.Popen | None = None

    def __enter__(self) -> ScratchCluster:
        return self.start()

    def __exit__(self, *_exc) -> None:
        self.remove()

    # --- making ---------------------------------------------------------------------------------------------------------

    def adopt(self, data_dir: Path, superuser: str = "postgres") -> ScratchCluster:
        """Take over a restored physical cluster; `start` then runs it with archive_mode off and without TCP, whatever its files say.

        data_dir: lies below this cluster's folder, else ScratchError: a live server's folder can never be adopted by a wrong variable.
        superuser: its bootstrap superuser.
        """
        data_dir = Path(data_dir).resolve()
        if self.folder not in data_dir.parents:
            raise ScratchError(f"{data_dir}: only a data folder below {self.folder} is adopted. Restore into there")
        if not (data_dir / "PG_VERSION").is_file():
            raise ScratchError(f"{data_dir}: is no data folder of PostgreSQL (no PG_VERSION). Was the restore complete?")
        if (data_dir / "postmaster.pid").exists():
            raise ScratchError(f"{data_dir}: has a postmaster.pid, a server may be running on it. Look at that process first")
        self.data_dir, self.superuser, self._adopted = data_dir, superuser, True
        self._make_folders()
        self._write_marker()
        return self

    def start(self, timeout_s: float = 60.0) -> ScratchCluster:
        """Make the cluster if it is new, start it, wait until it answers (a recovering one: until it is consistent).

        Raises ScratchError with the end of the server's log, NoSpaceError if the disk is full.
        """
        if self._process is not None:
            raise ScratchError(f"{self.data_dir}: is running already")
        self._make_folders()
        if not self._adopted and not (self.data_dir / MARKER).exists():
            self._initdb()
        (self.folder / "hba.conf").write_text("local all all trust\nlocal replication all trust\n")
        os.chmod(self.folder / "hba.conf", 0o644)
        argv = [f"{self.bin_dir}/postgres", "-D", str(self.data_dir)]
        for key, value in self._server_settings().items():
            argv += ["-c", f"{key}={value}"]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._as_user()
            )
        # Reads from a pipe that nobody writes to: its end means that this process is gone.
        watch = f"read -r _; kill -QUIT {self._process.pid} 2>/dev/null"
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", watch], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            self._wait(timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def admit(self, user: str) -> None:
        """Let one unix user through to the socket, and nobody else; as the superuser only root and the server's own user.

        A release's code is not ours: a superuser of the scratch cluster could start programs as the server's unix user.
        Raises ScratchError if there is no such user.
        """
        if os.geteuid() != 0:
            return
        try:
            os.chown(self.socket_dir, pwd.getpwnam(user).pw_uid, pwd.getpwnam(self.user or "root").pw_gid)
        except KeyError as error:
            raise ScratchError(f"the unix user {user} does not exist on this host. Make it, or give another one") from error
        os.chmod(self.socket_dir, 0o770)
        os.chmod(self.folder, self.folder.stat().st_mode & 0o777 | 0o011)  # to pass through, no more
        mapped = [f"greenroom {name} {self.superuser}" for name in ("root", self.user or "root")]
        (self.data_dir / "pg_ident.conf").write_text("\n".join(mapped) + "\n")
        hba = f'local all "{self.superuser}" peer map=greenroom\nlocal all all trust\n'
        (self.folder / "hba.conf").write_text(hba)
        with self.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")

    def _wait(self, timeout_s: float) -> None:
        until, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise self._failure(f"the scratch cluster ended at once (status {self._process.returncode})")
            try:
                with self.connect(connect_timeout=5) as connection:
                    row = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
                    self.system_identifier = row[0]
                    return
            except Exception as error:
                last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            time.sleep(0.02)
        raise self._failure(f"the scratch cluster did not answer within {timeout_s:g} s ({last})")

    def _initdb(self) -> None:
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise ScratchError(f"{self.data_dir}: is not empty and has no {MARKER}. Give an empty folder")
        # An initdb that outlives a killed parent would go on writing into a folder that somebody else has cleaned up.
        argv = argv_of(f"{self.bin_dir}/initdb", "-D", str(self.data_dir), "-U", self.superuser, "-A", "trust", "-E", self.encoding)
        argv += [f"--locale={self.locale}", "--no-sync", "--no-instructions"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **self._as_user())
        if done.returncode:
            text = (done.stderr.strip() or done.stdout.strip())[-1500:]
            if no_space(text):
                raise NoSpaceError(f"{self.folder}: the disk is full; a scratch cluster could not be made. Free space there: {text}")
            if "invalid locale name" in text:
                raise ScratchError(
                    f"locale {self.locale!r} is missing on this host. Generate it (package locales, locale-gen), then try again"
                )
            raise ScratchError(f"initdb in {self.data_dir} failed with status {done.returncode}: {text}")
        self._write_marker()

    def _write_marker(self) -> None:
        marker = self.data_dir / MARKER
        marker.write_text(json.dumps({"data_dir": str(self.data_dir), "made_by": "greenroom", "pid": os.getpid()}) + "\n")
        if self.user:
            shutil.chown(marker, self.user)

    def _make_folders(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(os.fsencode(str(self.socket_dir / f".s.PGSQL.{self.port}.lock"))) > SOCKET_PATH_MAX:
            self.socket_dir, self._made_socket_dir = Path(tempfile.mkdtemp(prefix="greenroom-")), True
        self.socket_dir.mkdir(exist_ok=True)
        self.log.touch()
        if self.user:
            for path in (self.folder, self.socket_dir, self.log):
                shutil.chown(path, self.user)
            self._check_reachable()
        os.chmod(self.socket_dir, 0o700)  # who may open the socket is a superuser there

    def _check_reachable(self) -> None:
        """The user must be able to walk to the folder; else initdb's error would only say "Permission denied"."""
        entry = pwd.getpwnam(self.user)
        for parent in self.folder.parents:
            status = parent.stat()
            groups = os.getgrouplist(self.user, entry.pw_gid)
            bit = 0o100 if status.st_uid == entry.pw_uid else 0o010 if status.st_gid in groups else 0o001
            if not status.st_mode & bit:
                raise ScratchError(
                    f"{parent}: user {self.user} cannot enter it, so no cluster can run in {self.folder}. chmod o+x {parent}"
                )

    def _server_settings(self) -> dict:
        fixed = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "port": str(self.port),
            "cluster_name": CLUSTER_NAME,
            "hba_file": str(self.folder / "hba.conf"),
            "logging_collector": "off",
            "log_destination": "stderr",
            "ssl": "off",
        }
        if self._adopted:
            # It must never write into the archive of the cluster that it is a copy of. Debian keeps postgresql.conf elsewhere.
            fixed |= {"archive_mode": "off", "archive_command": "/bin/false", "primary_conninfo": "", "synchronous_standby_names": ""}
            empty = self.folder / "postgresql.conf"
            empty.touch()
            if not (self.data_dir / "postgresql.conf").exists():
                fixed |= {"config_file": str(empty), "data_directory": str(self.data_dir)}
        return {**self.settings, **fixed}

    def _as_user(self) -> dict:
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": str(self.folder), "TZ": "UTC"}
        options: dict = {"env": env, "cwd": str(self.folder)}
        if self.user:
            entry = pwd.getpwnam(self.user)
            options |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(self.user, entry.pw_gid)}
        return options

    def _failure(self, what: str) -> ScratchError:
        text = self.log.read_text(errors="replace")[-2000:].strip() if self.log.exists() else ""
        if no_space(text):
            return NoSpaceError(f"{self.folder}: the disk is full, and {what}. Free space there. Its log: {text}")
        return ScratchError(f"{what}. The end of {self.log}: {text}")

    # --- using ----------------------------------------------------------------------------------------------------------

    def dsn(self, dbname: str = "postgres") -> dict:
        """libpq keywords of a superuser's connection through the socket."""
        return {"host": str(self.socket_dir), "port": str(self.port), "user": self.superuser, "dbname": dbname}

    def connect(self, dbname: str = "postgres", **keywords):
        """A psycopg.Connection as superuser, autocommit; keywords go to psycopg.connect."""
        import psycopg

        # Without an encoding, texts of a database in SQL_ASCII would come as bytes; a restored database may be set to read only.
        usual = {"autocommit": True, "client_encoding": "UTF8", "options": "-c default_transaction_read_only=off"}
        return psycopg.connect(**{**self.dsn(dbname), **usual, **keywords})

    @property
    def running(self) -> bool:
        """Whether its server process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of its postmaster, for tests that kill it."""
        return self._process.pid if self._process else None

    # --- ending ---------------------------------------------------------------------------------------------------------

    def stop(self, sig: int = signal.SIGINT, timeout_s: float = 30.0) -> None:
        """Stop the server (SIGINT: fast shutdown; SIGQUIT: as if it had crashed); the data stays. Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout_s)
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.stdin.close()
            self._watcher.wait(10)
            self._watcher = None

    def remove(self) -> None:
        """Stop it and remove what it put into its folder; the folder itself only if it is empty then."""
        self.stop()
        if (self.data_dir / MARKER).exists() or not self._adopted:
            tablespaces = [path.resolve() for path in (self.data_dir / "pg_tblspc").glob("*") if path.is_symlink()]
            for path in [self.data_dir, *(path for path in tablespaces if self.folder in path.parents)]:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.socket_dir, ignore_errors=True)
        for name in ("hba.conf", "postgresql.conf", "server.log"):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def assert_scratch(connection) -> None:
    """Raise ScratchError unless this connection (superuser) leads to a scratch cluster. Every destructive step calls it first."""
    host = connection.info.host
    if not host.startswith("/"):
        raise ScratchError(f"{host}: is reached over TCP, so it is no scratch cluster. Nothing was changed")
    row = connection.execute(
        "SELECT current_setting('cluster_name'), current_setting('listen_addresses'), current_setting('data_directory'),"
        " current_setting('unix_socket_directories'), pg_read_file(%s, 0, 10000, true)",
        [MARKER],
    ).fetchone()
    name, addresses, data_dir, sockets, marker = (text.decode(errors="replace") if isinstance(text, bytes) else text or "" for text in row)
    problems = []
    if name != CLUSTER_NAME:
        problems.append(f"cluster_name is {name!r}")
    if addresses:
        problems.append(f"it listens on {addresses!r}")
    if os.path.realpath(host) not in {os.path.realpath(part.strip()) for part in sockets.split(",")}:
        problems.append(f"its socket is not in {host}")
    try:
        named = json.loads(marker).get("data_dir") if marker else None
    except ValueError:
        named = None
    if not named or os.path.realpath(named) != os.path.realpath(data_dir):
        problems.append(f"no {MARKER} in its data folder {data_dir} that names this folder")
    if problems:
        raise ScratchError(f"the server behind {host} is no scratch cluster: {'; '.join(problems)}. Nothing was changed")
