"""Puts an archive onto a host, offline: a virtual environment of its own, filled from the archive's wheels, and proved.

Standard library only. Sources of the rules: 001 §2.1 and §2.2.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .archive import read_manifest, unpack, verify_archive
from .durable import fsync_dir, locked, write_atomic
from .installed import examine
from .masking import redact
from .records import red
from .slots import RELEASE_NAME, SlotError, finished_release, read_links

UV_LIMIT_S = 300


class InstallError(Exception):
    """The archive cannot be installed, or what is installed is not what it must be; the text says where and what to do."""


def host_target(python: str = "/usr/bin/python3") -> dict:
    """What wheels this host takes: {python: "3.11", machine, glibc: "2.36" or None}. Raises InstallError if `python` does not run."""
    try:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(f"{python}: does not run ({error}). Install Python 3.11 or newer.") from error
    with contextlib.suppress(ValueError, OSError, TypeError):
        return {"python": done.stdout.strip(), "machine": platform.machine(), "glibc": os.confstr("CS_GNU_LIBC_VERSION").split()[1]}
    return {"python": done.stdout.strip(), "machine": platform.machine(), "glibc": None}


def check_host(manifest: dict, python: str) -> None:
    """Raises InstallError unless the archive's wheels run here."""
    here, wanted = host_target(python), {"python": manifest["python"], **manifest["platform"]}
    if here["python"] != wanted["python"] or here["machine"] != wanted["machine"]:
        raise InstallError(
            f"the archive is for Python {wanted['python']} on {wanted['machine']}, this host has {here['python']} on {here['machine']}. "
            "Build it for this host."
        )
    if here["glibc"] is None or [int(n) for n in here["glibc"].split(".")] < [int(n) for n in wanted["glibc"].split(".")]:
        raise InstallError(
            f"the archive needs glibc {wanted['glibc']}, this host has {here['glibc'] or 'another C library'}. Build it for the "
            "oldest host."
        )


def check_room(dest: Path, needed: int, files: int = 2000) -> None:
    """Raises InstallError unless the file system of `dest` has `needed` bytes (and a tenth more) and `files` inodes free."""
    about = os.statvfs(_existing(dest))
    free = about.f_bavail * about.f_frsize
    if free < needed * 1.1:
        raise InstallError(
            f"{dest}: needs {needed * 1.1 / 1e6:.0f} MB, {free / 1e6:.0f} MB are free. Make room (old releases: state pruned), "
            "then run again."
        )
    if about.f_files and about.f_favail < files:
        raise InstallError(f"{dest}: only {about.f_favail} inodes are free, about {files} are needed. Remove files, then run again.")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _uv(uv: str, arguments: list[str], cache: Path, timeout_s: float) -> None:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(cache),
        "UV_CACHE_DIR": str(cache), "UV_NO_CONFIG": "1", "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1",
        "TMPDIR": str(cache),
    }  # fmt: skip
    cache.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            [uv, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except OSError as error:
        raise InstallError(f"{uv}: does not run ({error.strerror}). The role host_base installs it.") from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"uv {' '.join(arguments[:2])} came to no end within {timeout_s:g} s") from error
    if done.returncode:
        said = redact(done.stderr.strip())[-1200:]
        if "os error 28" in said or "No space left" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise InstallError(f"uv {' '.join(arguments[:2])} failed: {said}")


@contextlib.contextmanager
def _ordinary_umask() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _remove(folder: Path) -> None:
    """Remove a folder; its release.json goes first, so that what a crash leaves is seen to be unfinished."""
    with contextlib.suppress(FileNotFoundError):
        (folder / "release.json").unlink()
    shutil.rmtree(folder)


def _secure(folder: Path, owner: str | None, group: str | None) -> None:
    """Nobody but the owner may write anything: uv makes its lock file in the venv writable for all (seen with 0.13)."""
    change = (owner or "root", group or "root") != ("root", "root")
    for root, _folders, files in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in files)):
            if os.path.islink(path):
                continue
            mode = os.stat(path).st_mode & 0o7777
            if mode & 0o022:
                os.chmod(path, mode & ~0o022)
            if change:
                shutil.chown(path, owner, group)


def install(
    *,
    archive: str | os.PathLike,
    sha256: str,
    dest: str | os.PathLike,
    size: int | None = None,
    kind: str = "service",
    number: int | None = None,
    version: str | None = None,
    uv: str = "/opt/greenroom/bin/uv",
    python: str = "/usr/bin/python3",
    slots: str | os.PathLike | None = None,
    owner: str | None = None,
    group: str | None = None,
    run_as: str | None = None,
    timeout_s: float = UV_LIMIT_S,
    dry: bool = False,
) -> dict:
    """Install an archive into folder `dest`, or prove that it stands there.

    `dest` is `…/releases/<number>-<version>` for kind `service`, any own folder for `tests`. What is there and proved changes nothing;
    what has no release.json is unfinished and made anew; what is damaged is made anew only if no link in `slots` leads to it.
    release.json is written last. On any failure the folder is removed again.

    Returns {changed, dest, manifest, evidence}. Raises InstallError; its attribute `evidence` holds what was measured.
    """
    dest = Path(dest)
    if kind == "service" and (not RELEASE_NAME.match(dest.name) or ".." in dest.name or dest.name != f"{number}-{version}"):
        raise InstallError(f"{dest}: a release's folder is called <number>-<version>, here {number}-{version}")
    done = _already(dest, sha256, slots, run_as, dry)
    if done:
        return done
    verify_archive(archive, sha256, size)
    manifest = read_manifest(archive)
    if manifest["kind"] != kind or (version is not None and kind == "service" and manifest["version"] != version):
        raise InstallError(f"{archive}: holds {manifest['kind']} {manifest['version']}, wanted is {kind} {version or ''}".rstrip())
    check_host(manifest, python)
    check_room(dest, manifest["needed_bytes"])
    if dry:
        return {"changed": True, "dest": str(dest), "manifest": manifest, "evidence": []}
    with _ordinary_umask():
        dest.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(dest.parent / ".install.lock", timeout_s):
            done = _already(dest, sha256, slots, run_as, dry)  # somebody may have been faster
            if done:
                return done
            if dest.exists():
                _remove(dest)
            try:
                evidence = _install(Path(archive), dest, manifest, sha256, number, uv, python, owner, group, run_as, timeout_s)
            except OSError as error:
                _give_up(dest)
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise InstallError(
                        f"{dest}: no space left while installing ({manifest['needed_bytes'] / 1e6:.0f} MB needed); the unfinished "
                        "folder was removed. "
                        f"Make room (old releases: state pruned), then run again."
                    ) from error
                raise InstallError(f"{dest}: cannot be installed ({error}); the unfinished folder was removed.") from error
            except BaseException:
                _give_up(dest)
                raise
    return {"changed": True, "dest": str(dest), "manifest": manifest, "evidence": evidence}


def _give_up(dest: Path) -> None:
    shutil.rmtree(dest, ignore_errors=True)


def _already(dest: Path, sha256: str, slots: str | os.PathLike | None, run_as: str | None, dry: bool) -> dict | None:
    """The result if `dest` holds this very archive, proved; None if it has to be installed.

    Only a release is kept from being replaced (InstallError); folders of other kinds are simply made anew.
    """
    try:
        about = finished_release(dest)
        requirements = (dest / "requirements.txt").read_text(encoding="utf-8")
    except (SlotError, OSError):
        return None
    service = about.get("kind") == "service"
    if about.get("archive_sha256") != sha256 and not service:
        return None
    if about.get("archive_sha256") != sha256:
        raise InstallError(
            f"{dest}: holds another build (archive {str(about.get('archive_sha256'))[:12]}, wanted {sha256[:12]}). A release "
            "never changes: "
            f"take a new number."
        )
    evidence = examine(dest, about, requirements, run_as)
    reasons = red(evidence)
    if not reasons:
        return {"changed": False, "dest": str(dest), "manifest": about, "evidence": evidence}
    links = read_links(slots, dest.parent)[0] if slots else {}
    used = [slot for slot, name in links.items() if name == dest.name]
    if service and (used or not slots):
        error = InstallError(
            f"{dest}: is damaged ({reasons}){f' and slot {used[0]} leads to it' if used else ''}, so it is not replaced under "
            "running processes. "
            f"Deploy again under a new number."
        )
        error.evidence = evidence
        raise error
    return None


def _install(
    archive: Path, dest: Path, manifest: dict, sha256: str, number: int | None, uv: str, python: str, owner: str | None, group: str | None,
    run_as: str | None, timeout_s: float,
) -> list[dict]:  # fmt: skip
    begun = time.monotonic()
    dest.mkdir(mode=0o755)
    unpack(archive, dest)
    cache = dest / ".cache"
    program = str(dest / "bin/uv") if manifest["kind"] == "tools" else uv
    _uv(program, ["venv", "--quiet", "--python", python, "--no-project", str(dest / "venv")], cache, timeout_s)
    # Dependencies are resolved on purpose: a lock that lacks one fails here, not at the first request.
    _uv(
        program,
        ["pip", "install", "--quiet", "--python", str(dest / "venv/bin/python"),
         "--offline", "--no-index", "--find-links", str(dest / "wheels"),
         "--require-hashes", "--no-build", "--compile-bytecode", "--link-mode", "hardlink", "-r", str(dest / "requirements.txt")],
        cache, timeout_s,
    )  # fmt: skip
    shutil.rmtree(cache)
    shutil.rmtree(dest / "wheels")
    _secure(dest, owner, group)
    evidence = examine(dest, manifest, (dest / "requirements.txt").read_text(encoding="utf-8"), run_as)
    reasons = red(evidence)
    if reasons:
        error = InstallError(f"{dest}: what was installed is not what the archive says, so it was removed: {reasons}")
        error.evidence = evidence
        raise error
    about = {**manifest, "number": number, "archive_sha256": sha256, "installed_at": _utc(), "seconds": round(time.monotonic() - begun, 1)}
    (dest / "manifest.json").unlink()  # release.json holds it all
    subprocess.run(["sync", "-f", str(dest)], check=True, timeout=timeout_s)  # what release.json vouches for is on the disk first
    write_atomic(dest / "release.json", json.dumps(about, indent=1, sort_keys=True).encode() + b"\n")
    fsync_dir(dest.parent)
    return evidence


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def install_tools(
    *,
    archive: str | os.PathLike,
    sha256: str,
    dest: str | os.PathLike = "/opt/greenroom",
    size: int | None = None,
    python: str = "/usr/bin/python3",
    timeout_s: float = UV_LIMIT_S,
    dry: bool = False,
) -> dict:
    """Install Greenroom's own tools into `dest`/versions/<digest> and point `dest`/{bin,venv,lib} there, each with one rename.

    tools.json is written last; the version before stays for processes that still run from it, older ones go.
    Returns {changed, dest, manifest, evidence}. Raises InstallError.
    """
    dest = Path(dest)
    real = dest / "versions" / sha256[:12]
    links = {name: f"versions/{real.name}/{name}" for name in ("bin", "venv", "lib")}
    strange = [str(dest / name) for name in links if os.path.lexists(dest / name) and not (dest / name).is_symlink()]
    if strange:
        raise InstallError(f"{strange[0]}: is not a link; it was not made by Greenroom. Move it away and run again.")
    result = install(archive=archive, sha256=sha256, dest=real, size=size, kind="tools", python=python, timeout_s=timeout_s, dry=dry)
    stale = [name for name, target in links.items() if not (dest / name).is_symlink() or os.readlink(dest / name) != target]
    note = dest / "tools.json"
    about = {"digest": sha256, "version": result["manifest"]["version"], "python": result["manifest"]["python"]}
    try:
        noted = json.loads(note.read_bytes()) == about
    except (OSError, ValueError):
        noted = False
    if dry or not (stale or not noted or result["changed"]):
        return {**result, "dest": str(dest), "changed": bool(result["changed"] or stale or not noted)}
    for name in stale:
        aside = dest / f".{name}.new"
        aside.unlink(missing_ok=True)
        aside.symlink_to(links[name])
        os.replace(aside, dest / name)
    fsync_dir(dest)
    write_atomic(note, json.dumps(about, indent=1, sort_keys=True).encode() + b"\n")
    olds = sorted((one for one in (dest / "versions").iterdir() if one.is_dir() and one != real), key=lambda one: one.stat().st_ctime)
    for old in olds[:-1]:
        _remove(old)
    return {**result, "dest": str(dest), "changed": True}
