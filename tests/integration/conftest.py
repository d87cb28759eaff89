"""Real servers on loopback, each with a port and a data folder of its own, ended by their process ids.

`scripts/install_test_servers` installs the programs. A server can be stopped and started again by a test (`stop`, `start`).
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import glob
import ipaddress
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

INSTALL = "run scripts/install_test_servers"
PASSWORD = "Integration-Passw0rd-71c2"  # of throw-away servers on loopback


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def program(name: str, *patterns: str) -> str:
    """The path of a server's program; fails with what to do where it is not installed."""
    for pattern in patterns:
        found = sorted(glob.glob(pattern))
        if found:
            return found[-1]
    found = shutil.which(name)
    assert found, f"{name} is not installed; {INSTALL}"
    return found


def wait_for(condition, what: str, seconds: float = 60.0):
    """Poll `condition` until it is true; its last exception or falsehood is part of the failure."""
    until, last = time.monotonic() + seconds, None
    while time.monotonic() < until:
        try:
            result = condition()
            if result:
                return result
        except Ended:
            raise
        except Exception as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come up within {seconds} s: {last}")


class Ended(AssertionError):
    """The server's process is gone: waiting on would not help."""


class Server:
    """One server process in a process group of its own."""

    def __init__(self, argv, ready, folder: Path, env=None, user=None):
        self.argv, self.ready, self.folder, self.env, self.user = argv, ready, folder, env, user
        self.process = None

    def start(self):
        options = {}
        if self.user and os.geteuid() == 0:
            entry = pwd.getpwnam(self.user)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.folder), **(self.env or {})},
                **options,
            )
        try:
            wait_for(self._up, self.argv[0])
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{(self.folder / 'server.log').read_text(errors='replace')[-3000:]}") from None
        return self

    def _up(self):
        if self.process.poll() is not None:
            raise Ended(f"{self.argv[0]} ended with {self.process.returncode}")
        return self.ready()

    def stop(self, sig=signal.SIGTERM):
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what the server started and left
        self.process.wait(20)
        self.process = None


def server_folder(_tmp_path_factory, name: str, user: str | None = None) -> Path:
    """A folder that another user may reach, away at the end. Not below pytest's own: each start of a pytest closes that one to others."""
    folder = Path(tempfile.mkdtemp(prefix=f"greenroom-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    if user and os.geteuid() == 0:
        shutil.chown(folder, user)
    return folder


class Authority:
    """A certificate authority for tests; `issue` makes a key and a certificate signed by it."""

    def __init__(self, folder: Path):
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder, self._x509, self._ec = folder, x509, ec
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Greenroom test CA")])
        self.certificate = self._sign(self.name, self.key, -3650, 3650, x509.BasicConstraints(ca=True, path_length=0), [])
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._pem(self.certificate))

    def _sign(self, subject, key, start_days, end_days, constraints, names):
        from cryptography.hazmat.primitives import hashes

        x509, now = self._x509, datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(constraints, critical=True)
        builder = builder.not_valid_before(now + datetime.timedelta(days=start_days)).not_valid_after(
            now + datetime.timedelta(days=end_days)
        )
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    @staticmethod
    def _pem(certificate) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return certificate.public_bytes(Encoding.PEM)

    def issue(self, label: str, *names: str, start_days: float = -1, end_days: float = 60, owner: str | None = None) -> tuple[Path, Path]:
        """(certificate file, key file) for these host names and addresses, valid between the two days from now."""
        from cryptography.hazmat.primitives import serialization

        x509 = self._x509
        key = self._ec.generate_private_key(self._ec.SECP256R1())
        alternatives = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key, start_days, end_days, x509.BasicConstraints(ca=False, path_length=None), alternatives)
        cert_file, key_file = self.folder / f"{label}.pem", self.folder / f"{label}.key"
        cert_file.write_bytes(self._pem(certificate))
        key_file.touch(mode=0o600)
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        if owner and os.geteuid() == 0:
            shutil.chown(key_file, owner)
        return cert_file, key_file


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(server_folder(tmp_path_factory, "ca", "nobody"))


class Postgres(Server):
    """PostgreSQL with TLS and scram; role `postgres` is the superuser, all test roles share PASSWORD."""

    host, password = "127.0.0.1", PASSWORD

    def sql(self, *statements: str, dbname: str = "postgres"):
        import psycopg

        with psycopg.connect(
            host=self.host, port=self.port, dbname=dbname, user="postgres", password=self.password, autocommit=True
        ) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def postgres(tmp_path_factory, authority):
    """A running PostgreSQL: attributes host, port, password, bin_dir, data; methods sql(), stop(), start()."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = server_folder(tmp_path_factory, "postgres", user)
    binary = program("postgres", "/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/*/bin/postgres")
    bin_dir, data, port = Path(binary).parent, folder / "data", free_port()
    (folder / "password").write_text(PASSWORD)
    initdb = [
        str(bin_dir / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        f"--pwfile={folder / 'password'}",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]
    options = {"user": pwd.getpwnam(user).pw_uid, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **options)
    cert, key = authority.issue("postgres", "localhost", "127.0.0.1", owner=user)
    with open(data / "postgresql.conf", "a") as conf:
        conf.write(f"port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{folder}'\nfsync=off\nssl=on\n")
        conf.write(f"ssl_cert_file='{cert}'\nssl_key_file='{key}'\nmax_connections=50\n")

    server = Postgres([binary, "-D", str(data)], lambda: server.sql("SELECT 1"), folder, user=user)
    server.port, server.bin_dir, server.data, server.ca_file = port, bin_dir, data, authority.ca_file
    try:
        yield server.start()
    finally:
        server.stop(signal.SIGINT)  # fast shutdown: does not wait for connections


class Rabbit(Server):
    """RabbitMQ with a plain and a TLS port; user `tester` (PASSWORD) may do everything on vhost /test."""

    host, user_name, password, vhost = "127.0.0.1", "tester", PASSWORD, "/test"

    def ctl(self, *argv: str) -> str:
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.folder), **self.env}
        tool = program("rabbitmqctl", "/usr/lib/rabbitmq/bin/rabbitmqctl")
        done = subprocess.run([tool, "--quiet", *argv], env=env, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"rabbitmqctl {argv[0]}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory, authority):
    """A running RabbitMQ: attributes host, port, tls_port, api, user_name, password, vhost; methods ctl(), stop(), start()."""
    folder = server_folder(tmp_path_factory, "rabbitmq")
    port, tls_port, dist_port, epmd_port, api_port = (free_port() for _ in range(5))
    cert, key = authority.issue("rabbitmq", "localhost", "127.0.0.1")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nlisteners.ssl.1 = 127.0.0.1:{tls_port}\nloopback_users = none\n"
        f"ssl_options.cacertfile = {authority.ca_file}\nssl_options.certfile = {cert}\nssl_options.keyfile = {key}\n"
        "ssl_options.verify = verify_none\nssl_options.versions.1 = tlsv1.2\nssl_options.versions.2 = tlsv1.3\n"
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api_port}\n"
    )
    env = {
        "RABBITMQ_NODENAME": f"greenroom-{os.getpid()}-{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    }
    (folder / "plugins").write_text("[rabbitmq_management].\n")
    # The port mapper as a child of ours: started by the node it would become a daemon of nobody's.
    epmd = Server(
        [program("epmd", "/usr/lib/erlang/erts-*/bin/epmd"), "-port", str(epmd_port), "-address", "127.0.0.1"],
        lambda: socket.create_connection(("127.0.0.1", epmd_port), 1).close() or True,
        folder,
    )

    def ready():
        socket.create_connection(("127.0.0.1", tls_port), 1).close()
        return server.ctl("await_startup", "--timeout", "30") or True

    server = Rabbit([program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")], ready, folder, env)
    server.port, server.tls_port, server.ca_file = port, tls_port, authority.ca_file
    server.api = f"http://127.0.0.1:{api_port}/api"
    try:
        epmd.start()
        server.start()
        server.ctl("add_user", "tester", PASSWORD)
        server.ctl("add_vhost", "/test")
        server.ctl("set_permissions", "-p", "/test", "tester", ".*", ".*", ".*")
        yield server
    finally:
        server.stop()
        epmd.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A running Redis with a password: attributes host, port, password; methods stop(), start()."""
    folder, port = server_folder(tmp_path_factory, "redis"), free_port()
    argv = [
        program("redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        PASSWORD,
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    server = Server(argv, lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True, folder)
    server.host, server.port, server.password = "127.0.0.1", port, PASSWORD
    try:
        yield server.start()
    finally:
        server.stop()


class Nginx(Server):
    host = "127.0.0.1"

    def configure(self, body: str) -> None:
        """Write the `server` part(s) of the configuration; takes effect with `start`."""
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\npid {self.folder}/pid;\nerror_log {self.folder}/error.log;\nworker_processes 1;\nevents {{}}\nhttp {{\n"
            f"access_log {self.folder}/access.log;\n"
            + "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            + body
            + "\n}\n"
        )


@pytest.fixture
def nginx(tmp_path_factory):
    """An nginx that is not started yet: configure(body), start(), stop(); attributes host, port, tls_port, folder."""
    folder = server_folder(tmp_path_factory, "nginx", "www-data")
    port, tls_port = free_port(), free_port()
    argv = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]

    def ready():
        for each in (port, tls_port):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", each), 1).close()
                return True
        return False

    server = Nginx(argv, ready, folder)
    server.port, server.tls_port = port, tls_port
    try:
        yield server
    finally:
        server.stop()
