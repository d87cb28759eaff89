"""Python environment: what is installed equals the lock file, nothing is editable, the package imports and says its version (001 §2.2)."""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import re

from .base import Arg, Context, Findings, Outcome, Probe, execute, last_line

_LINE = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)\s*(;[^\\]*)?")


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: str) -> tuple[dict, set]:
    """({name: version}, names that have an environment marker) of a requirements file. Raises ValueError with file and line."""
    pins, conditional = {}, set()
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith(("#", "-")):  # comments, hashes and options
                continue
            found = _LINE.match(line)
            if not found:
                raise ValueError(f"{path}:{number}: not of the form name==version")
            name = normal(found.group(1))
            if name in pins and pins[name] != found.group(2):
                raise ValueError(f"{path}:{number}: {name} is pinned twice")
            pins[name] = found.group(2)
            if found.group(3):
                conditional.add(name)
    return pins, conditional


def installed(venv: str) -> tuple[dict, list]:
    """({name: version}, editable installations) of a virtual environment."""
    folders = glob.glob(os.path.join(venv, "lib*", "python*", "site-packages"))
    folders = sorted({os.path.realpath(folder) for folder in folders})
    found, editable = {}, []
    for item in importlib.metadata.distributions(path=folders):
        name = normal(item.metadata["Name"])
        found[name] = item.version
        origin = item.read_text("direct_url.json")
        if origin and json.loads(origin).get("dir_info", {}).get("editable"):
            editable.append(name)
    for folder in folders:
        for pattern in ("__editable__*", "*.egg-link"):
            editable += [os.path.basename(path) for path in glob.glob(os.path.join(folder, pattern))]
    return found, sorted(set(editable))


def run(args: dict, context: Context) -> Outcome:
    venv, found = args["venv"], Findings()
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python):
        return Outcome(False, f"a virtual environment in {venv}", "none", f"there is no virtual environment in {venv}")
    have, editable = installed(venv)
    found.detail["installed"] = len(have)
    if args["lock"]:
        try:
            _compare_lock(args, have, found)
        except (OSError, ValueError) as error:
            return Outcome(False, f"the packages of {args['lock']}", "the lock file cannot be read", str(error), found.detail)
    if args["no_editable"]:
        found.add(
            "no editable installation", f"editable: {', '.join(editable) or 'none'} of {len(have)} packages", bool(have) and not editable
        )
    if args["import_name"]:
        code = "import importlib, sys; print(getattr(importlib.import_module(sys.argv[1]), '__version__', ''))"
        done = execute([python, "-I", "-c", code, args["import_name"]], context)
        version = done.stdout.strip()
        found.detail["version"] = version
        wanted = f"{args['import_name']} imports" + (f", version {args['version']}" if args["version"] else "")
        if done.returncode != 0:
            found.add(wanted, "does not import", False, f"{args['import_name']} does not import ({last_line(done.stderr)})")
        else:
            found.add(wanted, f"imports, version {version or 'not stated'}", not args["version"] or version == args["version"])
    return found.outcome(venv)


def _compare_lock(args: dict, have: dict, found: Findings) -> None:
    pins, conditional = read_lock(args["lock"])
    allowed = {normal(name) for name in args["also"]}
    wrong = {
        "missing": [f"{name} {version}" for name, version in pins.items() if name not in have and name not in conditional],
        "another version": [f"{name} {have[name]} (not {version})" for name, version in pins.items() if have.get(name, version) != version],
        "in no lock file": [name for name in have if name not in pins and name not in allowed],
    }
    seen = f"{len(have)} installed" + "".join(f", {len(names)} {what}" for what, names in wrong.items())
    problem = "; ".join(f"{what}: {', '.join(sorted(names)[:10])}" for what, names in wrong.items() if names)
    found.add(
        f"exactly the {len(pins)} packages of {args['lock']}", seen, bool(pins) and not problem, problem or f"{args['lock']} pins nothing"
    )


def _check(args: dict) -> list:
    if not (args["lock"] or args["no_editable"] or args["import_name"]):
        return [("lock", "give at least one of lock, no_editable, import_name")]
    return [("import_name", "missing beside version")] if args["version"] and not args["import_name"] else []


PROBE = Probe(
    "python_env",
    "a virtual environment holds exactly what its lock file pins, and its package imports",
    {
        "venv": Arg("str", "folder of the virtual environment", required=True),
        "lock": Arg("str", "requirements file that pins every package"),
        "also": Arg("list", "packages that may be there beside the lock file, such as the service itself", default=[], elements="str"),
        "no_editable": Arg("bool", "nothing is installed in editable mode", default=False),
        "import_name": Arg("str", "Python package that must import"),
        "version": Arg("str", "what its __version__ must say"),
    },
    run,
    _check,
)
