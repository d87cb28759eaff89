"""Puts an archive of `bundle` onto a host, offline, and proves what stands there. Removes old releases without touching a needed one.

Standard library only. Sources of the rules: 001 §2.1 and §2.2 (code at its path, own virtual environment, exact pins, no editable
install, package imports and says its version).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .durable import fsync_dir, locked, sha256_file, write_atomic
from .records import measured
from .slots import RELEASE_NAME, SlotError, finished_release, read_links, release_number
from .source import algorithm_of, normalize, redact, tree_hash

UV_LIMIT_S = 300
# Run inside the venv: what is installed, and whether every file is there as its RECORD says.
INSPECT = r"""
import base64, hashlib, importlib.metadata as m, json, os, sys, sysconfig
dists, broken = [], []
for d in m.distributions():
    direct = json.loads(d.read_text("direct_url.json") or "{}")
    editable = bool(direct.get("dir_info", {}).get("editable"))
    dists.append({"name": d.metadata["Name"], "version": d.version, "editable": editable})
    for f in d.files or []:
        path = str(f.locate())
        try:
            if f.hash is not None:
                with open(path, "rb") as s:
                    had = base64.urlsafe_b64encode(hashlib.new(f.hash.mode, s.read()).digest()).rstrip(b"=").decode()
                if had != f.hash.value:
                    broken.append(path + ": altered")
            elif not path.endswith(".pyc") and not os.path.exists(path):
                broken.append(path + ": missing")
        except OSError as e:
            broken.append(path + ": " + e.strerror)
site = sysconfig.get_paths()["purelib"]
links = sorted(n for n in os.listdir(site) if n.startswith("__editable__") or n.endswith(".egg-link"))
print(json.dumps({"prefix": sys.prefix, "base_prefix": sys.base_prefix, "version": sys.version.split()[0], "dists": dists,
                  "broken": broken, "links": links}))
"""
IMPORT = "import importlib,sys; print(getattr(importlib.import_module(sys.argv[1]), '__version__', ''))"


class InstallError(Exception):
    """The archive cannot be installed, or what is installed is not what it must be; the text says where and what to do."""


# -- the archive -------------------------------------------------------------------------------------------------------


def verify_archive(path: str | os.PathLike, sha256: str, size: int | None = None) -> None:
    """Raises InstallError unless the file has exactly these bytes; a cut file is named with both sizes. Nothing is unpacked before."""
    try:
        actual_size = os.path.getsize(path)
    except OSError as error:
        raise InstallError(f"{path}: cannot be read ({error.strerror}). Send the archive again.") from error
    if size is not None and actual_size != size:
        word = "cut" if actual_size < size else "not the one that was built"
        raise InstallError(f"{path}: the archive is {word}: {actual_size} of {size} bytes. Remove it and send it again.")
    actual = sha256_file(path)
    if actual != sha256:
        raise InstallError(
            f"{path}: the archive was altered: sha256 {actual}, expected {sha256} ({actual_size} bytes). Remove it and send it again."
        )


def read_manifest(path: str | os.PathLike) -> dict:
    """The archive's manifest, its first member. Raises InstallError."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            member = archive.next()
            if member is None or member.name != "manifest.json" or not member.isreg() or member.size > 1 << 24:
                raise InstallError(f"{path}: does not begin with a manifest; this is no Greenroom archive")
            manifest = json.loads(archive.extractfile(member).read())
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise InstallError(f"{path}: cannot be read as an archive ({error})") from error
    if manifest.get("schema") != 1:
        raise InstallError(f"{path}: manifest schema {manifest.get('schema')!r}; this Greenroom knows 1")
    return manifest


def unpack(path: str | os.PathLike, dest: str | os.PathLike) -> None:
    """Unpack into the empty folder `dest`: regular files, and links that stay inside; modes 0644 and 0755, nothing else.

    Every name is judged before anything is written. (Python 3.11.2, Debian 12's, may lack tarfile's own filters.)
    Raises InstallError for a name or a kind of member that has no place in an archive of ours.
    """
    dest = Path(dest)
    with tarfile.open(path, "r:gz") as archive:
        members = archive.getmembers()
        links = set()
        for member in members:
            parts = PurePosixPath(member.name).parts
            if not parts or member.name.startswith("/") or ".." in parts or "\0" in member.name:
                raise InstallError(f"{path}: member {member.name!r} would be written outside {dest}; nothing was unpacked")
            if not (member.isreg() or member.issym()):
                raise InstallError(f"{path}: member {member.name!r} is neither a file nor a link; nothing was unpacked")
            if member.issym():
                inside = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
                if member.linkname.startswith("/") or inside == ".." or inside.startswith("../") or parts[0] != "src":
                    raise InstallError(f"{path}: link {member.name!r} points outside {dest}; nothing was unpacked")
                links.add(PurePosixPath(member.name))
        for member in members:
            if links & set(PurePosixPath(member.name).parents):
                raise InstallError(f"{path}: member {member.name!r} lies behind a link; nothing was unpacked")
        for member in members:
            place = dest / member.name
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if member.issym():
                place.symlink_to(member.linkname)
                continue
            with archive.extractfile(member) as source, open(place, "xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                os.fchmod(out.fileno(), 0o755 if member.mode & 0o100 else 0o644)


# -- the host ----------------------------------------------------------------------------------------------------------


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


def locked_versions(requirements: str) -> dict[str, str]:
    """{normalized name: version} of the archive's own requirements.txt."""
    found = {}
    for line in requirements.splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+) --hash=sha256:[0-9a-f]{64}\Z", line)
        if not pin:
            raise InstallError(f"requirements.txt of the archive: {line[:80]!r} is no pinned requirement")
        found[normalize(pin[1])] = pin[2]
    return found


def _plain_version(version: str) -> str:
    """A version as two spellings of it can be compared without a library: 1.0-RC1 and 1.0rc1 are one, 1.0 and 1.0.0 too."""
    text = re.sub(r"^v", "", version.lower())
    text = re.sub(r"[-_.]?(alpha|beta|preview|pre|a|b|c|rc|post|dev)[-_.]?", lambda found: f".{found[1]}", text.split("+")[0])
    text = text.replace(".alpha", ".a").replace(".beta", ".b").replace(".preview", ".rc").replace(".pre", ".rc").replace(".c", ".rc")
    head = re.match(r"[0-9.]*[0-9]", text)
    numbers = re.sub(r"(\.0)+\Z", "", head[0]) if head else ""
    return numbers + (text[head.end() :] if head else text) + ("+" + version.lower().split("+", 1)[1] if "+" in version else "")


# -- measuring ---------------------------------------------------------------------------------------------------------


def _run_venv(venv: Path, arguments: list[str], run_as: str | None = None) -> subprocess.CompletedProcess:
    account = {"user": run_as, "extra_groups": []} if run_as and os.geteuid() == 0 else {}
    if account:
        import pwd

        account["group"] = pwd.getpwnam(run_as).pw_gid
    return subprocess.run(
        [str(venv / "bin/python"), "-I", "-B", *arguments], cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=120, check=False, **account,
    )  # fmt: skip


def examine(folder: str | os.PathLike, manifest: dict, requirements: str, run_as: str | None = None) -> list[dict]:
    """Evidence of what is installed in `folder`, measured on the disk: venv, dependencies, editable installs, import, source tree.

    `requirements` is the text of the archive's requirements.txt. Changes nothing. For `tools` the ids that speak of a service
    are left out.
    """
    folder, found = Path(folder), []
    venv = folder / "venv"
    wanted = locked_versions(requirements)
    seen: dict = {}

    with measured("release.venv", expected=f"a virtual environment of its own in {venv}, Python {manifest['python']}", into=found) as check:
        done = _run_venv(venv, ["-c", INSPECT])
        if done.returncode:
            raise InstallError(f"{venv}/bin/python: status {done.returncode}: {done.stderr.strip()[-300:]}")
        seen = json.loads(done.stdout)
        own = os.path.realpath(seen["prefix"]) == os.path.realpath(venv) and seen["prefix"] != seen["base_prefix"]
        check.judge(own and seen["version"].startswith(manifest["python"] + "."), f"Python {seen['version']} in {seen['prefix']}")

    dists = {normalize(one["name"]): one["version"] for one in seen.get("dists", [])}
    missing, extra = sorted(set(wanted) - set(dists)), sorted(set(dists) - set(wanted))
    with measured("release.deps.installed", expected=f"{len(wanted)} packages, exactly those of the lock", into=found) as check:
        check.detail = {"missing": missing, "extra": extra, "broken": seen.get("broken", [])[:10]}
        doubled = len(seen["dists"]) != len(dists)
        check.judge(
            not (missing or extra or seen["broken"] or doubled), f"{len(dists)} packages",
            f"missing: {', '.join(missing) or 'none'}; not in the lock: {', '.join(extra) or 'none'}; files: "
            f"{'; '.join(seen['broken'][:3]) or 'intact'}",
        )  # fmt: skip

    with measured("release.deps.verified", expected="every installed version equals the pinned one", into=found) as check:
        same = sum(1 for name in wanted if name in dists and _plain_version(dists[name]) == _plain_version(wanted[name]))
        wrong = [
            f"{name} {dists[name]} instead of {wanted[name]}"
            for name in wanted
            if name in dists and _plain_version(dists[name]) != _plain_version(wanted[name])
        ]
        check.judge(
            same == len(wanted) and bool(seen),
            f"{same} of {len(wanted)} equal",
            "; ".join(wrong[:5]) or f"{len(wanted) - same} of {len(wanted)} not found",
        )

    with measured("release.deps.no_editable", expected="0 editable installs", into=found) as check:
        editable = sorted([*(one["name"] for one in seen["dists"] if one["editable"]), *seen["links"]])
        check.judge(not editable, len(editable), f"editable: {', '.join(editable)}")

    if manifest["kind"] == "tools":
        return found

    with measured("release.deps.import", expected=f"{manifest['package']} {manifest['package_version']}", into=found) as check:
        done = _run_venv(venv, ["-c", IMPORT, manifest["package"]], run_as)
        said = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        good = done.returncode == 0 and _plain_version(said) in {
            _plain_version(manifest["package_version"]),
            _plain_version(manifest["distribution_version"]),
        }
        last = done.stderr.strip().splitlines()[-1:] or [""]
        check.judge(
            good, f"{manifest['package']} {said or 'says no __version__'}" if done.returncode == 0 else "import failed",
            f"import of {manifest['package']}: "
            f"{last[0][:300]}" if done.returncode else f"the package says {said!r}, the release is {manifest['package_version']!r}",
        )  # fmt: skip

    with measured(
        "release.code.cloned", expected=f"tree {manifest['tree']} of commit {manifest['commit']} in {folder}/src", into=found
    ) as check:
        tree = tree_hash(folder / "src", algorithm_of(manifest["tree"]))
        check.detail = {"commit": manifest["commit"], "path": str(folder / "src")}
        check.judge(tree == manifest["tree"], f"tree {tree}", f"the files in {folder}/src are tree {tree}, not the commit's")
    return found


def red(evidence: list[dict]) -> str:
    """The reasons of all records that did not pass, '' if none."""
    return "; ".join(f"{one['id']}: {one.get('reason')}" for one in evidence if one["status"] != "pass")


# -- installing --------------------------------------------------------------------------------------------------------


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


# -- pruning -----------------------------------------------------------------------------------------------------------


def prune(
    releases: str | os.PathLike, slots: str | os.PathLike, keep: int, protected: Iterable[int] = (), *, dry: bool = False
) -> dict:  # fmt: skip
    """Remove releases, the lowest numbers first, so that the newest `keep` finished ones stay.

    Never removed: a number in `protected` (live, previous, last known good, in progress) and what a slot points to. Unfinished
    folders that are not protected go. Names that are no release's are left alone and named.

    Returns {changed, removed, kept, unknown}: folder names. Raises InstallError when a slot cannot be understood: then nothing
    is removed, for what is needed is not known.
    """
    home, keep, protected = Path(releases), int(keep), {int(one) for one in protected}
    if keep < 1:
        raise InstallError(f"keep must be at least 1, not {keep}")
    if not home.is_dir():
        return {"changed": False, "removed": [], "kept": [], "unknown": []}
    links, problems = read_links(slots, home)
    if problems:
        raise InstallError(f"nothing was removed: {problems[0]}")
    names = [entry.name for entry in home.iterdir() if entry.is_dir() and not entry.is_symlink()]
    known = sorted((name for name in names if release_number(name)), key=release_number, reverse=True)
    finished = [name for name in known if (home / name / "release.json").is_file()]
    needed = {name for name in known if release_number(name) in protected or name in links.values()}
    kept = {*finished[:keep], *needed}
    removed = [name for name in known if name not in kept]
    trash = [name for name in names if name.startswith(".removing-")]
    if not dry:
        for name in removed:
            # One rename takes it out of every list; what a crash leaves is finished by the next call.
            os.rename(home / name, home / f".removing-{name}")
            trash.append(f".removing-{name}")
        for name in trash:
            shutil.rmtree(home / name)
        if removed:
            fsync_dir(home)
    unknown = sorted(name for name in names if not release_number(name) and not name.startswith("."))
    return {
        "changed": bool(removed or trash),
        "removed": sorted(removed, key=release_number),
        "kept": sorted(kept, key=release_number),
        "unknown": unknown,
    }
