"""A small site for logical backups: a source cluster, a folder and an S3 store over TLS as places, keys, and faults for all of them.

The store is `rclone serve s3`, a stand-in with keys of its own. Everything listens on loopback or a socket, and ends by process id.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from ansible.module_utils.greenroom.backup import manifest, seal, signature, store, verify
from ansible.module_utils.greenroom.backup.configuration import Configuration
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster

ROOT = Path(__file__).resolve().parents[2]
ACCESS, SECRET = "greenroom-test-key-id", "greenroom-test-secret-5f0c1b7a9d"
DATABASE, SERVICE = "shop", "example-service"
PGCRYPTO_KEY = "a key of the service, for tests only: 9f81"

SOURCE = Path(__file__).with_name("backup_source.sql")  # one of each kind of object that a backup can lose
CLUSTER = (
    "CREATE ROLE shop_owner LOGIN PASSWORD 'owner'",
    "CREATE ROLE shop_app LOGIN PASSWORD 'app' CONNECTION LIMIT 30",
    "CREATE ROLE shop_reader",
    "GRANT shop_reader TO shop_app",
    "ALTER ROLE shop_app SET statement_timeout = '20s'",
    f"CREATE DATABASE {DATABASE} OWNER shop_owner TEMPLATE template0",
    f"ALTER DATABASE {DATABASE} SET work_mem = '7MB'",
    f"ALTER ROLE shop_app IN DATABASE {DATABASE} SET search_path = sales, public",
    f"REVOKE CONNECT ON DATABASE {DATABASE} FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE {DATABASE} TO shop_app",
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def fill(cluster: ScratchCluster, folder: Path) -> None:
    """Make roles, tablespace and the database `shop` with one of everything."""
    tablespace = folder / "slow"
    tablespace.mkdir()
    if cluster.user:
        shutil.chown(tablespace, cluster.user)
    with cluster.connect() as connection:
        connection.execute(f"CREATE TABLESPACE slow LOCATION '{tablespace}'")
        for statement in CLUSTER:
            connection.execute(statement)
    with cluster.connect(DATABASE) as connection:
        connection.execute(SOURCE.read_text(encoding="utf-8").replace(":key:", PGCRYPTO_KEY))


class S3:
    """`rclone serve s3` over TLS: `start`, `stop`; attributes port, root (its bucket is the folder `backups`)."""

    def __init__(self, folder: Path, authority, root: Path | None = None):
        self.program = shutil.which("rclone") or str(Path(sys.executable).parent / "rclone")
        assert Path(self.program).exists(), "rclone is not installed; it is in requirements/control.txt"
        self.root, self.port, self.folder, self.process = root or folder / "s3", free_port(), folder, None
        (self.root / "backups").mkdir(parents=True, exist_ok=True)
        self.cert, self.key = authority.issue("s3", "localhost", "127.0.0.1")

    def start(self) -> S3:
        argv = [self.program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{ACCESS},{SECRET}"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "RCLONE_CONFIG": str(self.folder / "rclone.conf")}
        with open(self.folder / "s3.log", "ab") as log:
            argv += ["--cert", str(self.cert), "--key", str(self.key), str(self.root)]
            self.process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() or True, "the S3 store")
        return self

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(20)
            self.process = None


class Proxy:
    """A TCP port in front of another that breaks off after `cut_after` bytes sent to it, or (None) never passes anything on."""

    def __init__(self, target: int, cut_after: int | None):
        self.target, self.left, self.held = target, cut_after, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.seen = self.listener.getsockname()[1], threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.held.append(client)
                self.seen.set()
                if self.left is not None:
                    server = socket.create_connection(("127.0.0.1", self.target))
                    self.held.append(server)
                    threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                    threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source, sink, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(16384):
                if counted:
                    self.left -= len(block)
                    if self.left < 0:
                        break
                sink.sendall(block)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self.listener, *self.held):
            each.close()


def wait_until(condition, what: str, seconds: float = 30.0):
    until, last = time.monotonic() + seconds, None
    while time.monotonic() < until:
        try:
            found = condition()
            if found:
                return found
        except Exception as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s ({last})")


class Site:
    """Keys, places and configurations around one source cluster. `config(...)` is the database's side and the restore side in one."""

    def __init__(self, folder: Path, source: ScratchCluster, s3: S3, ca_file: Path):
        self.folder, self.source, self.s3, self.ca_file = folder, source, s3, ca_file
        self.identity, self.signing_key, self.signers = folder / "identity", folder / "signing_key", folder / "allowed_signers"
        self.local, self.work = folder / "local", folder / "work"
        for path in (self.local, self.work):
            path.mkdir()
        self.key("identity")
        self.run("ssh-keygen", "-t", "ed25519", "-N", "", "-q", "-f", str(self.signing_key))
        self.signers.write_text(f"{SERVICE} {(folder / 'signing_key.pub').read_text()}")
        (folder / "service_key").write_text(PGCRYPTO_KEY + "\n")
        self.credentials("credentials", SECRET)
        self.prefix = folder.name

    @staticmethod
    def run(*argv: str) -> str:
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout

    def key(self, name: str) -> Path:
        self.run("age-keygen", "-o", str(self.folder / name))
        return self.folder / name

    def key_once(self, name: str) -> Path:
        """An identity of age that stays the same while the site lives."""
        return self.folder / name if (self.folder / name).exists() else self.key(name)

    def credentials(self, name: str, secret: str) -> Path:
        (self.folder / name).write_text(json.dumps({"key_id": ACCESS, "secret": secret}))
        return self.folder / name

    def s3_place(self, **changes) -> dict:
        place = {"name": "store", "type": "s3", "endpoint": f"https://127.0.0.1:{self.s3.port}", "bucket": "backups", "region": "us-east-1"}
        place |= {"prefix": f"{self.prefix}/logical", "ca_file": str(self.ca_file), "uri_style": "path", "timeout_s": 5}
        return place | {"credentials_file": str(self.folder / "credentials")} | changes

    def local_place(self, **changes) -> dict:
        return {"name": "local", "type": "posix", "path": str(self.local)} | changes

    def document(self, **changes) -> dict:
        database = {"name": DATABASE, "host": str(self.source.socket_dir), "port": self.source.port, "user": "postgres"}
        document = {
            "schema": 1,
            "service": SERVICE,
            "database": database | {"bin_dir": self.source.bin_dir},
            "places": [self.s3_place(), self.local_place()],
            "work_dir": str(self.work),
            "seal": {"recipients": [seal.recipient_of(self.identity)], "identity_file": str(self.identity)},
            "signature": {"signer": SERVICE, "namespace": "greenroom-backup", "key_file": str(self.signing_key)},
            "retention": {"full": 2, "days": 7, "logical": 3},
        }
        document["signature"]["allowed_signers_file"] = str(self.signers)
        for dotted, value in changes.items():
            section, _, key = dotted.partition("__")
            if key:
                document[section][key] = value
            else:
                document[section] = value
        return document

    def config(self, **changes) -> Configuration:
        return Configuration(self.document(**changes), "backup.json")

    def probes(self) -> list[dict]:
        return [{"name": "cards", "table": "public.customers", "column": "secret", "key_file": str(self.folder / "service_key")}]

    def places(self) -> list[store.Place]:
        return [store.make(place) for place in self.document()["places"]]

    def clear(self) -> None:
        """Places and work folder as on the first day."""
        place = self.places()[0]
        found = place.keys()
        for key in found:  # through the store: it keeps in mind what its folder held
            place.delete(key)
        for folder in (self.local, self.work):
            shutil.rmtree(folder, ignore_errors=True)
        self.local.mkdir()
        self.work.mkdir()

    def remake(self, backup_id: str, inside=None, document=None, *, places=None, signing_key: Path | None = None, recipients=None) -> None:
        """Open a good backup, change what is inside and/or its manifest, seal, sign and store it again under the same id."""
        place = self.places()[1]
        content = json.loads(place.read(f"{backup_id}/{manifest.MANIFEST}"))
        folder = self.folder / "remake"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "inside").mkdir(parents=True)
        if inside or recipients:
            place.fetch(f"{backup_id}/{manifest.DATA}", folder / "old")
            seal.unpack(folder / "old", folder / "inside", self.identity)
            if inside:
                inside(folder / "inside", content)
            measured = seal.pack(folder / "inside", folder / "new", recipients or [seal.recipient_of(self.identity)])
            content["parts"] = [{"name": manifest.DATA, **measured}]
        content = copy.deepcopy(content)
        if document:
            document(content)
        raw = manifest.dump(content)
        signed = signature.sign(raw, signing_key or self.signing_key)
        for place in places or self.places():
            if (folder / "new").exists():
                place.delete(f"{backup_id}/{manifest.DATA}")
                place.put(folder / "new", f"{backup_id}/{manifest.DATA}", content["parts"][0])
            place.put_bytes(raw, f"{backup_id}/{manifest.MANIFEST}")
            place.put_bytes(signed, f"{backup_id}/{manifest.SIGNATURE}")
        shutil.rmtree(folder)

    def command(self, *arguments: str, **changes) -> subprocess.Popen:
        """`python -m greenroom.backup` as a timer runs it, in a process of its own."""
        path = self.folder / "backup.json"
        path.write_text(json.dumps(self.document(**changes)))
        env = {**os.environ, "PYTHONPATH": str(ROOT / "plugins" / "module_utils")}
        argv = [sys.executable, "-m", "greenroom.backup", *arguments, "--config", str(path)]
        return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill(process: subprocess.Popen) -> None:
    """kill -9 of that one process, as the kernel does it when memory is short."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


def local_file(site, backup, name=manifest.DATA) -> Path:
    return site.local / backup["id"] / name


def red(result, step, words=""):
    """The walk stopped at this step, for this reason; what comes after it was not run."""
    assert (result["verdict"], result["failed_step"]) == ("failed", step), result["statement"]
    steps = {name: evidence for name, (evidence, _expected) in verify.STEPS.items()}
    by_id = {one["id"]: one for one in result["evidence"]}
    assert words in by_id[steps[step]]["reason"], by_id[steps[step]]["reason"]
    names = list(steps)
    assert all(by_id[steps[name]]["status"] == "not_run" for name in names[names.index(step) + 1 :])
    assert "not_run" not in {by_id[steps[name]]["status"] for name in names[: names.index(step)]}
    return by_id[steps[step]]["reason"]
