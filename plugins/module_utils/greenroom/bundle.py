"""Builds the archive that goes to the hosts: the tree of a commit and every wheel its lock names, for the hosts' platform.

Runs on the control node (needs pip and packaging); hosts need no network and no build tools. Three kinds, one mechanism:
`service` (a release), `tests` (the service's own test run), `tools` (Greenroom's own Python, uv and this library for hosts).
The same inputs give the same archive; a cached one counts only when its checksum is right.
Sources of the rules: 001 §2.2 (exact pins, hashes, no editable install).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .archive import archive_tree, files_under, requirement_lines, write_archive
from .durable import digest, locked, sha256_file, write_atomic
from .git import SourceError, private_folder
from .lock_file import parse_lock, read_lock
from .records import measured
from .tree import algorithm_of, export_tree
from .wheels import EPOCH, PIP_LIMIT_S, BundleError, check_target, gather_wheels, own_wheel, unpacked_size, wanted_on, wheel_metadata

SCHEMA = 1
# What of a resolved source decides an archive's content.
DECIDES = (
    "version", "package", "package_version", "commit", "tree", "commit_time", "ref", "ref_kind", "lock", "lock_sha256",
)  # fmt: skip


def cached(work_dir: str | os.PathLike, inputs: dict) -> tuple[Path, dict | None, str]:
    """(path of the archive for these inputs, its record or None, why not). A record counts only if the file's checksum is right."""
    key = digest({**inputs, "schema": SCHEMA})
    path = Path(work_dir) / "archives" / f"{inputs['name']}-{inputs['kind']}-{inputs['version']}-{key[:12]}.tar.gz"
    side = path.with_suffix(".json")
    try:
        record = json.loads(side.read_bytes())
        size, actual = path.stat().st_size, sha256_file(path)
    except (OSError, ValueError):
        return path, None, "not built yet"
    if record.get("key") != key:
        return path, None, "built from other inputs"
    if size != record["size"]:
        return path, None, f"the cached archive has {size} of {record['size']} bytes"
    if actual != record["sha256"]:
        return path, None, "the cached archive was altered: its checksum is wrong"
    return path, record, ""


def _result(path: Path, record: dict, changed: bool, why: str) -> dict:
    return {
        "changed": changed, "rebuilt_because": why or None, "archive": str(path), "sha256": record["sha256"], "size": record["size"],
        "manifest": record["manifest"],
    }  # fmt: skip


def _finish(path: Path, inputs: dict, manifest: dict, texts: dict, files: dict, mtime: int) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        write_archive(Path(aside), manifest, texts, files, mtime)
        record = {
            "key": digest({**inputs, "schema": SCHEMA}),
            "sha256": sha256_file(aside),
            "size": os.path.getsize(aside),
            "manifest": manifest,
        }
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    write_atomic(path.with_suffix(".json"), json.dumps(record, indent=1, sort_keys=True).encode())
    return record


def build(
    *,
    kind: str,
    name: str,
    resolved: dict,
    target: dict,
    work_dir: str | os.PathLike,
    requires_python: str | None = None,
    python: str | None = None,
    timeout_s: float = PIP_LIMIT_S,
    dry: bool = False,
) -> dict:
    """The archive of a resolved commit (`source.resolve`): kind `service`, or `tests` with the wheels of both locks.

    Returns {changed, rebuilt_because, archive, sha256, size, manifest}; with `dry` archive, sha256, size and manifest are None when
    it is not built yet. Raises BundleError or SourceError.
    """
    if kind == "tests" and not resolved["tests_lock"]:
        raise BundleError("the service names no lock for its tests (service.tests.lock)")
    work_dir, python = private_folder(work_dir), python or sys.executable
    target = check_target(target, requires_python or resolved["requires_python"])
    inputs = {
        "kind": kind, "name": name, "target": target,
        **{key: resolved[key] for key in DECIDES},
        "tests_lock_sha256": resolved["tests_lock_sha256"] if kind == "tests" else None,
    }  # fmt: skip
    (work_dir / "archives").mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(work_dir / "archives" / f".{kind}.lock", timeout_s):
        path, record, why = cached(work_dir, inputs)
        if record:
            return _result(path, record, False, "")
        if dry:
            return {"changed": True, "rebuilt_because": why, "archive": None, "sha256": None, "size": None, "manifest": None}
        _content, requirements = read_lock(resolved["repository"], resolved["commit"], resolved["lock"])
        if kind == "tests":
            requirements = [*requirements, *read_lock(resolved["repository"], resolved["commit"], resolved["tests_lock"])[1]]
        requirements = wanted_on(requirements, target)
        with tempfile.TemporaryDirectory(prefix=".source.", dir=work_dir) as aside:
            source = Path(aside) / "src"
            source.mkdir()
            tree = export_tree(resolved["repository"], resolved["commit"], source)
            own = own_wheel(resolved, source, target, work_dir, python, timeout_s)
            wheels = gather_wheels(requirements, target, work_dir, python, timeout_s)
            own_name, own_version = wheel_metadata(own)
            if own_name in {one["name"] for one in requirements}:
                raise BundleError(f"{own_name} is the service itself and must not be in its own lock")
            everything = [*requirements, {"name": own_name, "version": own_version, "extras": []}]
            paths = [*wheels, own]
            tree_files = files_under(source, "src")
            manifest = {
                "schema": SCHEMA, "kind": kind, "name": name, "package": resolved["package"], "version": resolved["version"],
                "package_version": resolved["package_version"] or own_version,
                "distribution": own_name, "distribution_version": own_version,
                "commit": resolved["commit"], "tree": tree, "ref": resolved["ref"], "ref_kind": resolved["ref_kind"],
                "lock": resolved["lock"], "lock_sha256": resolved["lock_sha256"], "tests_lock_sha256": inputs["tests_lock_sha256"],
                "built_at": _iso(resolved["commit_time"]), "python": target["python"],
                "platform": {"machine": target["machine"], "glibc": target["glibc"]},
                **_sizes(everything, paths, sum(one.lstat().st_size for one in tree_files.values())),
            }  # fmt: skip
            files = {**tree_files, **{f"wheels/{one.name}": one for one in paths}}
            record = _finish(
                path, inputs, manifest, {"requirements.txt": requirement_lines(everything, paths)}, files, resolved["commit_time"]
            )
    return _result(path, record, True, why)


def _iso(epoch: int) -> str:
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat().replace("+00:00", "Z")


def _sizes(requirements: list[dict], wheels: list[Path], other_bytes: int) -> dict:
    """The manifest's list of wheels and the bytes a host needs: at the end, and while it installs."""
    installed = sum(unpacked_size(wheel) for wheel in wheels) + other_bytes
    return {
        "wheels": [
            {"name": one["name"], "version": one["version"], "file": wheel.name, "sha256": sha256_file(wheel), "size": wheel.stat().st_size}
            for one, wheel in zip(requirements, wheels, strict=True)
        ],
        "installed_bytes": installed,
        "needed_bytes": installed + sum(wheel.stat().st_size for wheel in wheels),
    }


def build_tools(
    *,
    path: str | os.PathLike,
    lock: str,
    library: str | os.PathLike,
    target: dict,
    work_dir: str | os.PathLike,
    uv: str | None = None,
    python: str | None = None,
    timeout_s: float = PIP_LIMIT_S,
    dry: bool = False,
) -> dict:
    """The archive of Greenroom's own tools for hosts: the wheels of `path`/`lock`, the uv program, and the library `library`.

    Returns what `build` returns. Raises BundleError or SourceError.
    """
    work_dir, python = private_folder(work_dir), python or sys.executable
    target = check_target(target)
    lock_path, library = Path(path) / lock, Path(library)
    try:
        content = lock_path.read_bytes()
    except OSError as error:
        raise SourceError(f"{lock_path}: cannot be read ({error.strerror})") from error
    requirements = wanted_on(parse_lock(content, lock), target)
    uv_path = Path(uv or next((str(one) for one in (Path(python).parent / "uv", shutil.which("uv") or "") if os.path.isfile(one)), ""))
    if not uv_path.is_file():
        raise BundleError(f"the uv program was not found beside {python} nor on PATH. Next: scripts/setup")
    machine = {0x3E: "x86_64", 0xB7: "aarch64"}.get(int.from_bytes(uv_path.read_bytes()[18:20], "little"), "another machine")
    if machine != target["machine"]:
        raise BundleError(f"{uv_path} is for {machine}, the hosts are {target['machine']}. Build on a machine like the hosts.")
    library_files = {name: one for name, one in files_under(library, "lib/greenroom").items() if name.endswith(".py")}
    if "lib/greenroom/__init__.py" not in library_files:
        raise BundleError(f"{library}: is no Python package")
    parts = {"lock_sha256": hashlib.sha256(content).hexdigest(), "uv_sha256": sha256_file(uv_path)}
    parts["library_sha256"] = digest({name: sha256_file(one) for name, one in library_files.items()})
    inputs = {"kind": "tools", "name": "greenroom", "target": target, "version": digest(parts)[:12], **parts}
    (work_dir / "archives").mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(work_dir / "archives" / ".tools.lock", timeout_s):
        archive, record, why = cached(work_dir, inputs)
        if record:
            return _result(archive, record, False, "")
        if dry:
            return {"changed": True, "rebuilt_because": why, "archive": None, "sha256": None, "size": None, "manifest": None}
        wheels = gather_wheels(requirements, target, work_dir, python, timeout_s)
        extra = {"bin/uv": uv_path.resolve(), **library_files}
        manifest = {
            "schema": SCHEMA, "kind": "tools", "name": "greenroom", "version": inputs["version"], "python": target["python"],
            "platform": {"machine": target["machine"], "glibc": target["glibc"]}, "lock": lock, "built_at": _iso(EPOCH), **parts,
            **_sizes(requirements, wheels, sum(one.stat().st_size for one in extra.values())),
        }  # fmt: skip
        files = {**extra, **{f"wheels/{one.name}": one for one in wheels}}
        record = _finish(archive, inputs, manifest, {"requirements.txt": requirement_lines(requirements, wheels)}, files, EPOCH)
    return _result(archive, record, True, why)


def evidence_built(resolved: dict, archive: str) -> dict:
    """Evidence of code integrity, measured on the archive itself: the tree in it against the commit's."""
    with measured("release.code.integrity", expected=f"tree {resolved['tree']} of commit {resolved['commit']}, work tree clean") as check:
        tree = archive_tree(archive, algorithm_of(resolved["tree"]))
        check.detail = {"commit": resolved["commit"], "work_tree": resolved["work_tree"], "archive": os.path.basename(archive)}
        check.judge(
            tree == resolved["tree"], f"tree {tree}", f"the archive holds tree {tree}, commit {resolved['commit']} is {resolved['tree']}"
        )
    return check.record
