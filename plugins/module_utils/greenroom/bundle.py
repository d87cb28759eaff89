"""Builds the archive that goes to the hosts: the tree of a commit and every wheel its lock names, for the hosts' platform.

Runs on the control node (needs pip and packaging); hosts need no network and no build tools. Three kinds, one mechanism:
`service` (a release), `tests` (the service's own test run), `tools` (Greenroom's own Python, uv and this library for hosts).
The same inputs give the same archive; a cached one counts only when its checksum is right.
Sources of the rules: 001 §2.2 (exact pins, hashes, no editable install).
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from .durable import digest, locked, sha256_file, write_atomic
from .records import measured
from .source import (
    COMMIT,
    VERSION,
    SourceError,
    algorithm_of,
    blob_hash,
    export_tree,
    normalize,
    parse_lock,
    private_folder,
    read_lock,
    redact,
    ref_at_source,
    same_version,
    tree_of,
)

SCHEMA = 1
KINDS = ("service", "tests", "tools")
PIP_LIMIT_S = 900
RETRY_LIMIT_S = 60  # how long a registry that does not answer is asked again
# The user's settings of where packages come from; everything else of pip's environment could change what is installed.
PIP_SETTINGS = (
    "INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY", "DEFAULT_TIMEOUT", "TIMEOUT",
    "CACHE_DIR", "CONFIG_FILE",
)  # fmt: skip
# What of a resolved source decides an archive's content.
DECIDES = (
    "version", "package", "package_version", "commit", "tree", "commit_time", "ref", "ref_kind", "lock", "lock_sha256",
)  # fmt: skip
EPOCH = 315532800  # 1980-01-01, the least time a zip can hold; for archives that no commit dates
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout\w*|ReadTimeout\w*|Temporary failure in name resolution|Connection (?:refused|reset|aborted)|"
    r"Max retries exceeded|connection error|after connection broken|5\d\d Server Error|IncompleteRead"
)


class BundleError(Exception):
    """The archive cannot be built; the text says which package, file or platform, and what to do."""


# -- the platform the wheels are for -----------------------------------------------------------------------------------


def check_target(target: dict, requires_python: str | None = None) -> dict:
    """{python: "3.11", machine, glibc: "2.36"} of the hosts, checked. Raises BundleError.

    `requires_python` is what the service asks for, e.g. ">=3.11".
    """
    python, machine, glibc = (str(target.get(key) or "") for key in ("python", "machine", "glibc"))
    if not re.match(r"3\.[0-9]{1,2}(\.[0-9]+)?\Z", python):
        raise BundleError(f"target.python {python!r} is no Python 3 version such as 3.11")
    if not re.match(r"[a-z0-9_]+\Z", machine):
        raise BundleError(f"target.machine {machine!r} is no machine name such as x86_64")
    if not re.match(r"2\.[0-9]{1,3}\Z", glibc):
        raise BundleError(f"target.glibc {glibc!r} is no glibc version such as 2.36; hosts with another C library are not supported")
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    full = python if python.count(".") == 2 else f"{python}.0"
    if requires_python:
        try:
            fits = SpecifierSet(requires_python).contains(full, prereleases=True)
        except InvalidSpecifier as error:
            raise BundleError(f"python {requires_python!r} is no version specifier such as >=3.11") from error
        if not fits:
            raise BundleError(f"the service needs Python {requires_python}, the hosts have {python}")
    return {"python": ".".join(python.split(".")[:2]), "python_full": full, "machine": machine, "glibc": glibc}


def platforms(target: dict) -> list[str]:
    """The wheel platform tags that run on the target, best first."""
    machine, newest = target["machine"], int(target["glibc"].split(".")[1])
    aliases = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    oldest = 5 if machine in ("x86_64", "i686") else 17
    found = []
    for minor in range(newest, oldest - 1, -1):
        found.append(f"manylinux_2_{minor}_{machine}")
        if minor in aliases:
            found.append(f"{aliases[minor]}_{machine}")
    return [*found, f"linux_{machine}"]


def wheel_fits(filename: str, target: dict) -> bool:
    """Whether a wheel can be installed on the target."""
    from packaging.tags import compatible_tags, cpython_tags
    from packaging.utils import parse_wheel_filename

    version = tuple(int(part) for part in target["python"].split("."))
    short = f"cp{''.join(target['python'].split('.'))}"
    good = {*cpython_tags(version, abis=[short], platforms=platforms(target)), *compatible_tags(version, short, platforms(target))}
    return bool(parse_wheel_filename(filename)[3] & good)


def wanted_on(requirements: list[dict], target: dict) -> list[dict]:
    """The requirements whose markers hold on the target. Raises BundleError for a malformed marker."""
    from packaging.markers import InvalidMarker, Marker, default_environment

    environment = {
        **default_environment(),
        "python_version": target["python"], "python_full_version": target["python_full"], "implementation_version": target["python_full"],
        "platform_machine": target["machine"], "sys_platform": "linux", "os_name": "posix", "platform_system": "Linux",
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip
    kept: dict[str, dict] = {}
    for one in requirements:
        try:
            if one["marker"] and not Marker(one["marker"]).evaluate(environment):
                continue
        except InvalidMarker as error:
            raise BundleError(f"line {one['line']}: {one['name']}: marker {one['marker']!r} is malformed") from error
        if one["name"] in kept and kept[one["name"]]["version"] != one["version"]:
            raise BundleError(
                f"{one['name']} is wanted as {kept[one['name']]['version']} and as {one['version']}; locks that go together must agree"
            )
        before = kept.get(one["name"])
        kept[one["name"]] = (
            {**one, "extras": sorted({*one["extras"], *before["extras"]}), "hashes": [*before["hashes"], *one["hashes"]]} if before else one
        )
    return [kept[name] for name in sorted(kept)]


# -- wheels ------------------------------------------------------------------------------------------------------------


def _pip(arguments: list[str], python: str, *, timeout_s: float, extra: dict | None = None) -> str | None:
    """Run pip; None when it did what it was asked, else all it said, redacted."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "UV_"))}
    environment |= {f"PIP_{key}": os.environ[f"PIP_{key}"] for key in PIP_SETTINGS if f"PIP_{key}" in os.environ}
    environment |= {"PIP_RETRIES": "2", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(extra or {})}
    try:
        done = subprocess.run(
            [python, "-m", "pip", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"pip {arguments[0]} came to no end within {timeout_s:g} s"
    if done.returncode == 0:
        return None
    return redact(f"{done.stdout.strip()}\n{done.stderr.strip()}".strip())


def _wheel_of(folder: Path, requirement: dict) -> Path | None:
    """The wheel of a requirement in a folder, its bytes checked against the lock; a damaged one is removed."""
    from packaging.utils import parse_wheel_filename

    for path in sorted(folder.glob("*.whl")):
        name, version, _build, _tags = parse_wheel_filename(path.name)
        if normalize(str(name)) != requirement["name"] or not same_version(str(version), requirement["version"]):
            continue
        content = path.read_bytes()
        if any(hashlib.new(kind, content).hexdigest() == value for kind, value in (one.split(":", 1) for one in requirement["hashes"])):
            return path
        path.unlink()
    return None


def gather_wheels(requirements: list[dict], target: dict, work_dir: Path, python: str, timeout_s: float = PIP_LIMIT_S) -> list[Path]:
    """One wheel for each requirement, from the store of this target or downloaded into it with hashes required.

    Raises BundleError: a hash does not fit, no wheel for the target, the registry cannot be reached within `timeout_s` seconds.
    """
    store = work_dir / "wheels" / f"cp{target['python']}-{target['machine']}-glibc{target['glibc']}"
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / ".lock", timeout_s):
        missing = [one for one in requirements if _wheel_of(store, one) is None]
        if missing:
            _download(missing, target, store, python, timeout_s)
        found = [(one, _wheel_of(store, one)) for one in requirements]
    lost = [one["name"] for one, path in found if path is None]
    if lost:
        raise BundleError(f"pip downloaded no wheel whose hash is in the lock for: {', '.join(lost)}")
    return [path for _one, path in found]


def _download(missing: list[dict], target: dict, store: Path, python: str, timeout_s: float) -> None:
    names = ", ".join(f"{one['name']}=={one['version']}" for one in missing)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=store) as aside:
        listed = Path(aside) / "requirements.txt"
        listed.write_text(
            "".join(f"{one['name']}=={one['version']} " + " ".join(f"--hash={h}" for h in one["hashes"]) + "\n" for one in missing)
        )
        short = f"cp{''.join(target['python'].split('.'))}"
        # Not quiet and with retries: only pip's warnings tell an index that cannot be reached from one without the package.
        arguments = ["download", "--progress-bar", "off", "--require-hashes", "--only-binary=:all:", "--no-deps"]
        arguments += ["--dest", aside, "--requirement", str(listed)]
        arguments += ["--python-version", target["python"], "--implementation", "cp", "--abi", short, "--abi", "abi3", "--abi", "none"]
        arguments += [part for name in platforms(target) for part in ("--platform", name)]
        deadline, pause = time.monotonic() + min(timeout_s, RETRY_LIMIT_S), 2.0
        while (said := _pip(arguments, python, timeout_s=timeout_s)) is not None:
            if "DO NOT MATCH THE HASHES" in said:
                blamed = re.search(r"(\S+==\S+) from [^\n]*\n((?:\s+(?:Expected|Got)\s[^\n]*\n?)+)", said)
                about = f"{blamed[1]} has another hash than the lock: {' '.join(blamed[2].split())}" if blamed else said[-400:]
                raise BundleError(
                    f"the registry's file for {about}. Somebody changed the file, or the lock is of another one; find out which."
                )
            unreachable = UNREACHABLE.search(said)
            lacking = re.search(r"No matching distribution found for ([^\s(]+)", said)
            if lacking and not unreachable:
                raise BundleError(
                    f"no wheel of {lacking[1]} for Python {target['python']} on {target['machine']} with glibc {target['glibc']} whose "
                    f"hash is in the lock: the registry has none (or only sources; hosts do not compile). Pin a version that has one."
                )
            if not unreachable or time.monotonic() + pause > deadline:
                why = f"the package registry does not answer ({unreachable[0]})" if unreachable else said[-600:]
                raise BundleError(f"the wheels of {names[:300]} cannot be downloaded: {why}. Look at pip's settings (pip config list).")
            time.sleep(pause)
            pause = min(pause * 2, 30)
        for wheel in Path(aside).glob("*.whl"):
            wheel.chmod(0o644)
            os.replace(wheel, store / wheel.name)


def wheel_metadata(path: Path) -> tuple[str, str]:
    """(name, version) that a wheel's METADATA states. Raises BundleError when it is no wheel."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(one for one in archive.namelist() if re.match(r"[^/]+\.dist-info/METADATA\Z", one))
            head = archive.read(name).decode("utf-8", "replace").split("\n\n", 1)[0]
    except (zipfile.BadZipFile, StopIteration, OSError) as error:
        raise BundleError(f"{path.name}: is no wheel ({error})") from error
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line and not line.startswith(" "))
    return normalize(fields["Name"]), fields["Version"].strip()


def own_wheel(resolved: dict, source: Path, target: dict, work_dir: Path, python: str, timeout_s: float = PIP_LIMIT_S) -> Path:
    """The service's own wheel, built from a copy of the exported tree; kept for the next archive of the same commit.

    Raises BundleError: the build fails, or the wheel says another version than the release or does not fit the target.
    """
    store = work_dir / "own" / f"{resolved['commit']}-cp{target['python']}"
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / ".lock", timeout_s):
        kept = store / "wheel.json"
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = json.loads(kept.read_bytes())
            if sha256_file(store / known["file"]) == known["sha256"]:
                return store / known["file"]
        with tempfile.TemporaryDirectory(prefix=".build.", dir=store) as aside:
            copy = Path(aside) / "source"
            shutil.copytree(source, copy, symlinks=True)
            out = Path(aside) / "out"
            extra = {"SOURCE_DATE_EPOCH": str(max(resolved["commit_time"], EPOCH)), "PYTHONHASHSEED": "0"}
            if resolved["package_version"] is None:
                # Versions from git need the repository, which the tree does not carry: say the tag's.
                extra |= dict.fromkeys(("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION"), resolved["version"])
            arguments = ["wheel", "--quiet", "--no-deps", "--no-cache-dir", "--wheel-dir", str(out), str(copy)]
            said = _pip(arguments, python, timeout_s=timeout_s, extra=extra)
            if said is not None:
                raise BundleError(f"the wheel of commit {resolved['commit'][:12]} cannot be built: {said[-1500:]}")
            built = sorted(out.glob("*.whl"))
            if len(built) != 1:
                raise BundleError(f"building commit {resolved['commit'][:12]} gave {len(built)} wheels, not one")
            name, version = wheel_metadata(built[0])
            should = resolved["package_version"] or resolved["version"]
            if not same_version(version, should):
                raise BundleError(f"the wheel {name} of commit {resolved['commit'][:12]} says version {version}, the release {should}")
            if not wheel_fits(built[0].name, target):
                raise BundleError(
                    f"{built[0].name} does not run on Python {target['python']}, {target['machine']}, glibc {target['glibc']}: "
                    f"the control node compiled it for itself. Build on a machine like the hosts."
                )
            final = store / built[0].name
            os.replace(built[0], final)
            write_atomic(kept, json.dumps({"file": final.name, "sha256": sha256_file(final)}).encode())
    return final


def _unpacked_size(wheel: Path) -> int:
    """Bytes a wheel fills once installed, compiled files included (about as large as their sources)."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(one.file_size * (2 if one.filename.endswith(".py") else 1) for one in archive.infolist())


# -- the archive -------------------------------------------------------------------------------------------------------


def write_archive(path: Path, manifest: dict, texts: dict[str, bytes], files: dict[str, Path], mtime: int) -> None:
    """Write a tar.gz whose bytes depend on nothing but its content: sorted, one time, root's, no user names.

    `texts` and `files` map names in the archive to bytes and to paths (files, or symlinks kept as links). manifest.json comes first.
    """

    def entry(name: str, mode: int, size: int = 0) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.mode, info.size, info.mtime = mode, size, mtime
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=mtime) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        first = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        archive.addfile(entry("manifest.json", 0o644, len(first)), io.BytesIO(first))
        for name in sorted({*texts, *files}, key=str.encode):
            if name in texts:
                archive.addfile(entry(name, 0o644, len(texts[name])), io.BytesIO(texts[name]))
                continue
            source = files[name]
            if source.is_symlink():
                info = entry(name, 0o777)
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(source)
                archive.addfile(info)
                continue
            with open(source, "rb") as stream:
                about = os.fstat(stream.fileno())
                archive.addfile(entry(name, 0o755 if about.st_mode & 0o100 else 0o644, about.st_size), stream)


def archive_tree(path: str | os.PathLike, algorithm: str = "sha1") -> str:
    """The git tree id of the files under `src/` in an archive: what a host will unpack, not what was meant."""
    blobs = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if not member.name.startswith("src/"):
                continue
            if member.issym():
                mode, content = "120000", os.fsencode(member.linkname)
            else:
                mode, content = "100755" if member.mode & 0o100 else "100644", archive.extractfile(member).read()
            blobs[member.name.removeprefix("src/")] = (mode, blob_hash(content, algorithm))
    return tree_of(blobs, algorithm)


def _files_under(folder: Path, prefix: str) -> dict[str, Path]:
    found = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*names, *links):
            path = Path(root) / name
            found[f"{prefix}/{path.relative_to(folder)}"] = path
    return found


def _requirement_lines(requirements: list[dict], wheels: list[Path]) -> bytes:
    """The requirements of the archive: each names the one wheel that is in it by that wheel's hash."""
    lines = []
    for one, wheel in zip(requirements, wheels, strict=True):
        extras = f"[{','.join(one['extras'])}]" if one["extras"] else ""
        lines.append(f"{one['name']}{extras}=={one['version']} --hash=sha256:{sha256_file(wheel)}\n")
    return "".join(lines).encode()


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
            tree_files = _files_under(source, "src")
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
                path, inputs, manifest, {"requirements.txt": _requirement_lines(everything, paths)}, files, resolved["commit_time"]
            )
    return _result(path, record, True, why)


def _iso(epoch: int) -> str:
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat().replace("+00:00", "Z")


def _sizes(requirements: list[dict], wheels: list[Path], other_bytes: int) -> dict:
    """The manifest's list of wheels and the bytes a host needs: at the end, and while it installs."""
    installed = sum(_unpacked_size(wheel) for wheel in wheels) + other_bytes
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
    library_files = {name: one for name, one in _files_under(library, "lib/greenroom").items() if name.endswith(".py")}
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
        record = _finish(archive, inputs, manifest, {"requirements.txt": _requirement_lines(requirements, wheels)}, files, EPOCH)
    return _result(archive, record, True, why)


def evidence_resolved(resolved: dict, git: str) -> list[dict]:
    """Evidence of a resolved source: a version and its commit, and that the repository itself says so of the ref."""
    found: list[dict] = []
    with measured("release.version", expected=f"one version and commit for {resolved['ref_kind']} {resolved['ref']}", into=found) as check:
        check.detail = {key: resolved[key] for key in ("commit", "lock_sha256", "package_version", "requirements")}
        check.judge(
            bool(VERSION.match(resolved["version"]) and COMMIT.match(resolved["commit"])),
            f"{resolved['version']} = commit {resolved['commit']}",
        )
    with measured(
        "release.code.ref", expected=f"{resolved['ref_kind']} {resolved['ref']} is commit {resolved['commit']}", into=found
    ) as check:
        check.detail = {"repository": resolved["git"]}
        said = ref_at_source(git, resolved["ref"], resolved["ref_kind"])
        if resolved["ref_kind"] == "commit":
            check.judge(resolved["commit"].startswith(resolved["ref"]), f"commit {resolved['commit']}")
        else:
            check.judge(
                said == resolved["commit"], f"{resolved['ref_kind']} {resolved['ref']} is commit {said or 'unknown'} in the repository"
            )
    return found


def evidence_built(resolved: dict, archive: str) -> dict:
    """Evidence of code integrity, measured on the archive itself: the tree in it against the commit's."""
    with measured("release.code.integrity", expected=f"tree {resolved['tree']} of commit {resolved['commit']}, work tree clean") as check:
        tree = archive_tree(archive, algorithm_of(resolved["tree"]))
        check.detail = {"commit": resolved["commit"], "work_tree": resolved["work_tree"], "archive": os.path.basename(archive)}
        check.judge(
            tree == resolved["tree"], f"tree {tree}", f"the archive holds tree {tree}, commit {resolved['commit']} is {resolved['tree']}"
        )
    return check.record
