"""What is installed in a release's folder, measured on the disk: virtual environment, packages, import, source tree.

Standard library only. Sources of the rules: 001 §2.1 and §2.2 (code at its path, own virtual environment, exact pins, no editable
install, package imports and says its version).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from .archive import locked_versions
from .records import measured
from .tree import algorithm_of, tree_hash
from .versions import normalize, plain_version

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
            raise RuntimeError(f"{venv}/bin/python: status {done.returncode}: {done.stderr.strip()[-300:]}")
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
        same = sum(1 for name in wanted if name in dists and plain_version(dists[name]) == plain_version(wanted[name]))
        wrong = [
            f"{name} {dists[name]} instead of {wanted[name]}"
            for name in wanted
            if name in dists and plain_version(dists[name]) != plain_version(wanted[name])
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
        good = done.returncode == 0 and plain_version(said) in {
            plain_version(manifest["package_version"]),
            plain_version(manifest["distribution_version"]),
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
