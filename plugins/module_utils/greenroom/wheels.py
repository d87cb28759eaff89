"""Wheels for the hosts' platform: which fit, gathered with hashes required, and the service's own, built from the exported tree.

Runs on the control node; needs pip and packaging.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

from .durable import locked, sha256_file, write_atomic
from .masking import redact
from .versions import normalize, same_version

PIP_LIMIT_S = 900
RETRY_LIMIT_S = 60  # how long a registry that does not answer is asked again
# The user's settings of where packages come from; everything else of pip's environment could change what is installed.
PIP_SETTINGS = (
    "INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY", "DEFAULT_TIMEOUT", "TIMEOUT",
    "CACHE_DIR", "CONFIG_FILE",
)  # fmt: skip
EPOCH = 315532800  # 1980-01-01, the least time a zip can hold; for archives that no commit dates
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout\w*|ReadTimeout\w*|Temporary failure in name resolution|Connection (?:refused|reset|aborted)|"
    r"Max retries exceeded|connection error|after connection broken|5\d\d Server Error|IncompleteRead"
)


class BundleError(Exception):
    """The archive cannot be built; the text says which package, file or platform, and what to do."""


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


def unpacked_size(wheel: Path) -> int:
    """Bytes a wheel fills once installed, compiled files included (about as large as their sources)."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(one.file_size * (2 if one.filename.endswith(".py") else 1) for one in archive.infolist())
