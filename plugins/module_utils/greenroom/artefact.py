"""A prebuilt archive (made by `release_build`) as the source of a release: fetched, and judged as a whole before the first change.

Runs on the control node. What only the repository could tell (that a ref is that commit) is not claimed.
Sources of the rules: 001 §2.1 and §2.2 (exact commit, exact pins).
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from .archive import ArchiveError, archive_tree, checked_members, locked_versions, read_manifest
from .durable import locked, sha256_file
from .git import COMMIT, SourceError, private_folder
from .records import NOT_APPLICABLE, measured, record
from .tree import algorithm_of
from .versions import VERSION, check_known, check_version, normalize
from .wheels import check_target, wheel_fits

FETCH_LIMIT_S = 600
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
TEXTS = ("package", "package_version", "distribution", "distribution_version", "ref", "ref_kind", "lock", "python", "built_at")


def obtain(archive: str, sha256: str, work_dir: str | os.PathLike, timeout_s: float = FETCH_LIMIT_S) -> Path:
    """The archive with exactly this checksum, as a file on the control node.

    `archive` is a path, or an https address (credentials for it come from the user's .netrc), which is downloaded once into `work_dir`.
    Raises SourceError: it is not there, was cut, or is another one.
    """
    if not SHA256.match(sha256):
        raise SourceError(f"artefact.sha256 {sha256!r} is no SHA-256: 64 of the characters 0-9 a-f")
    if "://" not in archive:
        path = Path(archive).expanduser()
        check_digest(path, sha256, str(path))
        return path
    if not archive.startswith("https://"):
        raise SourceError(f"{archive}: only https addresses are fetched. Give one, or the path of a file on the control node.")
    store = private_folder(work_dir) / "artefacts"
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = store / f"{sha256}.tar.gz"
    with locked(store / ".lock", timeout_s):
        if path.is_file() and sha256_file(path) == sha256:
            return path
        handle, aside = tempfile.mkstemp(prefix=".fetch.", dir=store)
        try:
            with os.fdopen(handle, "wb") as out:
                _download(archive, out, timeout_s)
            check_digest(aside, sha256, archive)
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)
    return path


def _download(url: str, out: io.BufferedIOBase, timeout_s: float) -> None:
    """Write what the address answers to `out`. Raises SourceError."""
    from ansible.module_utils.urls import open_url

    deadline, received = time.monotonic() + timeout_s, 0
    try:
        with contextlib.closing(open_url(url, timeout=min(30, timeout_s), follow_redirects="safe", http_agent="greenroom")) as answer:
            if not answer.geturl().startswith("https://"):
                raise SourceError(f"{url}: leads on to an address without TLS. Give the address where the archive lies.")
            wanted = answer.headers.get("Content-Length")
            while part := answer.read(1 << 20):
                received += out.write(part)
                if time.monotonic() > deadline:
                    raise SourceError(f"{url}: {received} bytes came within {timeout_s:g} s, and no end. Try again, or fetch it by hand.")
    except (OSError, ValueError) as error:  # HTTP statuses, TLS, names that do not resolve: all are OSError
        raise SourceError(f"{url}: cannot be fetched ({error}). Correct service.artefact.archive, or make it reachable.") from error
    if wanted is not None and received != int(wanted):
        raise SourceError(f"{url}: the archive was cut on its way: {received} of {wanted} bytes came. Run again.")


def check_digest(path: str | os.PathLike, sha256: str, name: str) -> None:
    """Raises SourceError, naming the archive as `name`, unless the file has exactly this checksum; it says whether the end is missing."""
    try:
        actual, size = sha256_file(path), os.path.getsize(path)
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror}). Correct service.artefact.archive.") from error
    if actual == sha256:
        return
    why = "the archive was cut or spoiled: its end is missing" if _is_cut(path) else "the archive was altered, or is another one"
    raise SourceError(
        f"{name}: {why}: sha256 {actual} ({size} bytes), service.artefact.sha256 is {sha256}. "
        "Fetch it again from where it was built; write another checksum only if that place says so."
    )


def _is_cut(path: str | os.PathLike) -> bool:
    try:
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
    except EOFError:
        return True
    except (OSError, zlib.error):
        return False
    return False


def judge(
    path: Path,
    *,
    name: str,
    package: str,
    version: str,
    target: dict,
    requires_python: str | None = None,
    known_versions: dict | None = None,
) -> dict:
    """Everything about the release in an archive, after all of it was looked at: what `source.resolve` returns, with `manifest` beside.

    `name`, `package`, `version` are the contract's; `target` is the hosts' platform (see `wheels.check_target`). `repository`, `git` and
    `tests_lock` are None. Raises SourceError, ArchiveError or BundleError.
    """
    manifest = read_manifest(path)
    _check_manifest(path, manifest)
    for key, wanted in (("kind", "service"), ("name", name), ("package", package), ("version", version)):
        if manifest.get(key) != wanted:
            raise SourceError(f"{path}: is an archive of {key} {manifest.get(key)!r}, the contract says {wanted!r}. Give the right one.")
    _check_contents(path, manifest)
    _check_platform(path, manifest, check_target(target, requires_python))
    check_known(version, manifest["commit"], manifest["lock_sha256"], known_versions or {})
    return {
        **{key: manifest[key] for key in ("version", "package_version", "package", "commit", "tree", "ref", "ref_kind", "lock")},
        "lock_sha256": manifest["lock_sha256"],
        "commit_time": int(datetime.datetime.fromisoformat(manifest["built_at"]).timestamp()),
        "requirements": len(manifest["wheels"]) - 1,
        "requires_python": requires_python,
        **dict.fromkeys(("git", "repository", "tests_lock", "tests_lock_sha256")),
        "work_tree": "none",
        "manifest": manifest,
    }


def _check_manifest(path: Path, manifest: dict) -> None:
    """The manifest has all its parts, and they may be used: a version and a commit become names of folders."""
    check_version(manifest.get("version"), f"{path}: manifest")
    platform, wheels = manifest.get("platform"), manifest.get("wheels")
    faults = [key for key in TEXTS if not isinstance(manifest.get(key), str)]
    faults += [key for key in ("commit", "tree") if not COMMIT.match(str(manifest.get(key)))]
    faults += [] if SHA256.match(str(manifest.get("lock_sha256"))) else ["lock_sha256"]
    faults += [] if isinstance(platform, dict) and {"machine", "glibc"} <= set(platform) else ["platform"]
    needed = {"name", "version", "file", "sha256"}
    listed = isinstance(wheels, list) and wheels and all(isinstance(one, dict) and needed <= set(one) for one in wheels)
    faults += [] if listed else ["wheels"]
    faults += [key for key in ("installed_bytes", "needed_bytes") if not isinstance(manifest.get(key), int)]
    if faults:
        raise ArchiveError(f"{path}: its manifest lacks {', '.join(faults)} or holds something else there. Build the archive again.")


def _check_contents(path: Path, manifest: dict) -> None:
    """Every file is one that belongs there; wheels, requirements and lock are those of the manifest. Raises ArchiveError."""
    wheels, lock, requirements, own = {}, None, "", b""
    wanted = {one["file"]: one["sha256"] for one in manifest["wheels"]}
    own_files = [one["file"] for one in manifest["wheels"] if normalize(one["name"]) == normalize(manifest["distribution"])]
    with tarfile.open(path, "r:gz") as archive:
        for member in checked_members(archive, path):
            place, _slash, rest = member.name.partition("/")
            if place == "wheels" and rest:
                content = archive.extractfile(member).read()
                wheels[rest] = hashlib.sha256(content).hexdigest()
                own = content if rest in own_files else own
            elif member.name == "requirements.txt":
                requirements = archive.extractfile(member).read().decode("utf-8", "replace")
            elif member.name == f"src/{manifest['lock']}" and member.isreg():
                lock = hashlib.sha256(archive.extractfile(member).read()).hexdigest()
            elif place != "src" and member.name != "manifest.json":
                raise ArchiveError(f"{path}: member {member.name!r} has no place in an archive of a service. Build the archive again.")
    wrong = sorted({*wheels, *wanted} - {file for file in wheels if wanted.get(file) == wheels[file]})
    if wrong:
        raise ArchiveError(f"{path}: these wheels are missing or not the manifest's: {', '.join(wrong[:5])}. Build the archive again.")
    named = {normalize(one["name"]): one["version"] for one in manifest["wheels"]}
    if locked_versions(requirements) != named or set(re.findall(r"sha256:([0-9a-f]{64})", requirements)) != set(wanted.values()):
        raise ArchiveError(f"{path}: its requirements.txt does not name exactly the wheels in it. Build the archive again.")
    if lock != manifest["lock_sha256"]:
        raise ArchiveError(
            f"{path}: the lock src/{manifest['lock']} has sha256 {lock}, its manifest says {manifest['lock_sha256']}. "
            "Build the archive again."
        )
    if not own_files:
        raise ArchiveError(f"{path}: holds no wheel of {manifest['distribution']}, the service itself. Build the archive again.")
    _check_requires_python(path, own_files[0], own, manifest["python"])


def _check_requires_python(path: Path, file: str, content: bytes, python: str) -> None:
    """What the service's own wheel says of the Python it needs holds for the archive's. Raises ArchiveError."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            place = next(one for one in wheel.namelist() if re.match(r"[^/]+\.dist-info/METADATA\Z", one))
            stated = re.search(r"^Requires-Python: (.*)$", wheel.read(place).decode("utf-8", "replace").split("\n\n", 1)[0], re.MULTILINE)
        fits = not stated or SpecifierSet(stated[1].strip()).contains(f"{python}.0", prereleases=True)
    except (zipfile.BadZipFile, StopIteration, InvalidSpecifier) as error:
        raise ArchiveError(f"{path}: {file} is no wheel ({error})") from error
    if not fits:
        raise ArchiveError(f"{path}: {file} needs Python {stated[1].strip()}, the archive is for {python}. Build it for another Python.")


def _check_platform(path: Path, manifest: dict, target: dict) -> None:
    """The wheels run on the hosts. Raises SourceError."""
    about = manifest["platform"]
    built = f"Python {manifest['python']} on {about['machine']} with glibc {about['glibc']}"
    hosts = f"Python {target['python']} on {target['machine']} with glibc {target['glibc']}"
    newer = tuple(map(int, str(about["glibc"]).split("."))) > tuple(map(int, target["glibc"].split(".")))
    if (manifest["python"], about["machine"]) != (target["python"], target["machine"]) or newer:
        raise SourceError(f"{path}: is built for {built}, the hosts have {hosts}. Build the archive for them (playbooks/build.yml).")
    misfits = [one["file"] for one in manifest["wheels"] if not wheel_fits(one["file"], target)]
    if misfits:
        raise SourceError(f"{path}: {', '.join(misfits[:5])} cannot run on {hosts}. Build the archive again.")


def evidence_of(path: Path, release: dict, archive: str) -> list[dict]:
    """Evidence of a prebuilt archive: its version and commit, and that the tree in it is the one it states. The ref is taken on trust."""
    found: list[dict] = []
    expected = f"one version and commit in {os.path.basename(archive)}"
    with measured("release.version", expected=expected, into=found) as check:
        check.detail = {key: release[key] for key in ("commit", "lock_sha256", "package_version", "requirements")}
        sound = bool(VERSION.match(release["version"]) and COMMIT.match(release["commit"]))
        check.judge(sound, f"{release['version']} = commit {release['commit']}")
    why = (
        f"deployed from a prebuilt archive, so no repository is asked: the archive says that {release['ref_kind']} {release['ref']} "
        f"is commit {release['commit'][:12]}"
    )
    found.append(record("release.code.ref", NOT_APPLICABLE, reason=why))
    expected = f"tree {release['tree']}, as the archive's manifest says of commit {release['commit']}"
    with measured("release.code.integrity", expected=expected, into=found) as check:
        tree = archive_tree(path, algorithm_of(release["tree"]))
        check.detail = {"commit": release["commit"], "archive": os.path.basename(archive)}
        why = f"{path}: the files in it are tree {tree}, its manifest says {release['tree']}"
        check.judge(tree == release["tree"], f"tree {tree}", why)
    return found
