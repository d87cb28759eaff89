"""A prebuilt archive is fetched and judged as a whole; each fault is seen red on a real archive."""

import base64
import hashlib
import http.server
import io
import json
import ssl
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.archive import ArchiveError, write_archive
from ansible.module_utils.greenroom.artefact import evidence_of, judge, obtain
from ansible.module_utils.greenroom.durable import sha256_file
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.install import host_target
from ansible.module_utils.greenroom.wheels import BundleError
from service_repository import PYTHON

TARGET = host_target(PYTHON)


@pytest.fixture
def look(made, tmp_path):
    """Fetches and judges an archive as the contract of the small service would."""

    def look(archive=made["archive"], sha256=None, **more):
        path = obtain(str(archive), sha256 or sha256_file(archive), tmp_path / "work")
        given = {"name": "tiny", "package": "tiny", "version": made["manifest"]["version"], "target": TARGET, **more}
        return path, judge(path, **given)

    return look


@pytest.fixture
def repack(made, tmp_path):
    """The archive again, changed by a function of (manifest, {name: content}): what a careless or bad builder may hand out."""

    def repack(change):
        with tarfile.open(made["archive"]) as archive:
            parts = {member.name: archive.extractfile(member).read() for member in archive}
        manifest = json.loads(parts.pop("manifest.json"))
        change(manifest, parts)
        path = tmp_path / "repacked.tar.gz"
        write_archive(path, manifest, parts, {}, 0)
        return path

    return repack


def test_a_sound_archive_says_what_its_builder_knew(made, look):
    path, release = look()
    assert str(path) == made["archive"]
    manifest = made["manifest"]
    for key in ("version", "commit", "tree", "lock", "lock_sha256", "package_version", "ref", "ref_kind"):
        assert release[key] == manifest[key]
    assert release["requirements"] == 1 and release["repository"] is None and release["commit_time"] > 0
    found = {record["id"]: record for record in evidence_of(path, release, made["archive"])}
    assert {key: record["status"] for key, record in found.items()} == {
        "release.version": "pass", "release.code.ref": "not_applicable", "release.code.integrity": "pass",
    }  # fmt: skip
    assert "no repository is asked" in found["release.code.ref"]["reason"]


def test_the_repacked_archive_is_sound_where_nothing_was_changed(look, repack):
    look(repack(lambda manifest, parts: None))


def test_what_is_cut_altered_or_not_there_is_refused_by_its_checksum(made, tmp_path):
    raw, bad = Path(made["archive"]).read_bytes(), tmp_path / "bad.tar.gz"
    for content, words in (
        (raw[:-1000], "was cut or spoiled: its end is missing"),
        (raw[: len(raw) // 2], "was cut or spoiled"),
        (raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :], "was altered, or is another one"),
        (b"<html>not found</html>", "was altered, or is another one"),
    ):
        bad.write_bytes(content)
        told = rf"{bad}: the archive {words}.*: sha256 \w+ \({len(content)} bytes\), service.artefact.sha256 is"
        with pytest.raises(SourceError, match=told):
            obtain(str(bad), made["sha256"], tmp_path / "work")
    with pytest.raises(SourceError, match="cannot be read"):
        obtain(str(tmp_path / "absent"), made["sha256"], tmp_path / "work")
    with pytest.raises(SourceError, match="no SHA-256"):
        obtain(made["archive"], "latest", tmp_path / "work")


def test_what_is_no_archive_of_ours_is_refused(look, tmp_path):
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as out:
        out.addfile(tarfile.TarInfo("README"), io.BytesIO())
    with pytest.raises(ArchiveError, match="no Greenroom archive"):
        look(other)
    other.write_bytes(b"no tar at all")
    with pytest.raises(ArchiveError, match="cannot be read as an archive"):
        look(other)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"version": "0.2.0"}, r"version '0.1.0\+g\w+', the contract says '0.2.0'"),
        ({"name": "other"}, "name 'tiny', the contract says 'other'"),
        ({"package": "other"}, "package 'tiny', the contract says 'other'"),
        ({"target": {**TARGET, "machine": "aarch64"}}, "is built for .*, the hosts have .* on aarch64"),
        ({"target": {**TARGET, "python": "3.12"}}, "the hosts have Python 3.12"),
        ({"target": {**TARGET, "glibc": "2.17"}}, "the hosts have .* glibc 2.17"),
        ({"requires_python": ">=3.99"}, "needs Python >=3.99"),
            ],
)
def test_what_does_not_fit_contract_hosts_or_ledger_is_refused(look, given, words):
    with pytest.raises((SourceError, BundleError), match=words):
        look(**given)


def test_a_version_that_belongs_to_other_content_is_refused(made, look):
    with pytest.raises(SourceError, match=r"was released from commit a{40}"):
        look(known_versions={made["manifest"]["version"]: {"commit": "a" * 40, "lock_sha256": "b" * 64}})


def test_an_archive_of_another_kind_is_refused(look, make_archive):
    with pytest.raises(SourceError, match="kind 'tests', the contract says 'service'"):
        look(make_archive(kind="tests")["archive"])


def other_wheel(manifest, parts):
    name = next(name for name in parts if name.startswith("wheels/idna"))
    parts[name] += b"more"


def missing_wheel(manifest, parts):
    del parts[next(name for name in parts if name.startswith("wheels/idna"))]


def other_requirements(manifest, parts):
    parts["requirements.txt"] = parts["requirements.txt"].replace(b"idna==3.10", b"idna==3.9")


def other_lock(manifest, parts):
    parts["src/requirements.txt"] += b"# more\n"


def strange_member(manifest, parts):
    parts["postinst.sh"] = b"reboot\n"


def outside(manifest, parts):
    parts["src/../../evil"] = b""


def no_own_wheel(manifest, parts):
    manifest["distribution"] = "other"


def other_python(manifest, parts):
    one = next(one for one in manifest["wheels"] if one["name"].startswith("tiny"))
    aside = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(parts[f"wheels/{one['file']}"])) as wheel, zipfile.ZipFile(aside, "w") as out:
        for name in wheel.namelist():
            content = wheel.read(name)
            if name.endswith("METADATA"):
                content = content.replace(b"Version: 0.1.0", b"Version: 0.1.0\nRequires-Python: >=3.99")
            out.writestr(name, content)
    new = hashlib.sha256(aside.getvalue()).hexdigest()
    parts["requirements.txt"] = parts["requirements.txt"].replace(one["sha256"].encode(), new.encode())
    parts[f"wheels/{one['file']}"], one["sha256"] = aside.getvalue(), new


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_wheel, "these wheels are missing or not the manifest's: idna"),
        (missing_wheel, "these wheels are missing or not the manifest's: idna"),
        (other_requirements, "does not name exactly the wheels"),
        (other_lock, r"the lock src/requirements.txt has sha256 \w+, its manifest says"),
        (strange_member, "'postinst.sh' has no place"),
        (outside, "outside"),
        (no_own_wheel, "holds no wheel of other"),
        (other_python, "needs Python >=3.99"),
        (lambda manifest, parts: manifest.pop("commit"), "lacks commit"),
        (lambda manifest, parts: manifest.update(tree="x", wheels=[{}]), "lacks tree, wheels"),
        (lambda manifest, parts: manifest.update(version="../1"), "version '../1' is refused"),
        (lambda manifest, parts: manifest.update(schema=2), "manifest schema 2"),
    ],
)
def test_what_contradicts_its_own_manifest_is_refused_though_its_checksum_is_right(look, repack, change, words):
    with pytest.raises((ArchiveError, SourceError), match=words):
        look(repack(change))


def test_an_altered_source_is_red(look, repack):
    def change(manifest, parts):
        parts["src/src/tiny/__init__.py"] += b"# changed after the build\n"

    path, release = look(repack(change))
    (record,) = [one for one in evidence_of(path, release, str(path)) if one["status"] == "fail"]
    assert record["id"] == "release.code.integrity" and "its manifest says" in record["reason"]


# --- over https ------------------------------------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    """Serves one file, or half of it."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        content = self.server.content
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path == "/cut" else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(made, tmp_path, monkeypatch):
    """An https server with a certificate of its own on loopback: attributes url, asked, content."""
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", tmp_path / "key", "-out",
         tmp_path / "cert", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.asked, server.content, server.url = [], Path(made["archive"]).read_bytes(), f"https://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield server
    server.shutdown()
    server.server_close()


def test_an_archive_is_fetched_once_with_the_users_credentials(made, site, tmp_path):
    (tmp_path / ".netrc").write_text("machine localhost login anna password geheim-123\n")
    (tmp_path / ".netrc").chmod(0o600)
    path = obtain(f"{site.url}/a.tar.gz", made["sha256"], tmp_path / "work")
    assert path.read_bytes() == site.content and (tmp_path / "work").stat().st_mode & 0o777 == 0o700
    assert site.asked == [("/a.tar.gz", "Basic " + base64.b64encode(b"anna:geheim-123").decode())]
    assert obtain(f"{site.url}/a.tar.gz", made["sha256"], tmp_path / "work") == path
    assert len(site.asked) == 1
    path.write_bytes(b"spoiled")
    assert obtain(f"{site.url}/a.tar.gz", made["sha256"], tmp_path / "work").read_bytes() == site.content


def test_what_cannot_be_fetched_as_promised_leaves_nothing(made, site, tmp_path, monkeypatch):
    work = tmp_path / "work"
    for url, words in (
        (f"{site.url}/cut", rf"was cut on its way: {len(site.content) // 2} of {len(site.content)} bytes"),
        (f"{site.url}/absent", "cannot be fetched .*404"),
        (site.url.replace("https", "http") + "/a", "only https"),
        ("https://localhost:1/a", "cannot be fetched .*refused"),
    ):
        with pytest.raises(SourceError, match=words):
            obtain(url, made["sha256"], work)
    with pytest.raises(SourceError, match=rf"{site.url}/a: the archive was altered, or is another one"):
        obtain(f"{site.url}/a", "0" * 64, work)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceError, match=r"cannot be fetched .*CERTIFICATE_VERIFY_FAILED"):
        obtain(f"{site.url}/a", made["sha256"], work)
    assert [path.name for path in (work / "artefacts").iterdir()] == [".lock"]
