"""Operating system: distribution and version, architecture, glibc against what an artefact was built for, Python."""

from __future__ import annotations

import os
import platform
import re
import shlex

from .base import Arg, Context, Findings, Outcome, Probe, ProbeError, execute
from .compare import version_at_least

# PEP 600's names of the older tags.
_OLD_TAGS = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}


def run(args: dict, context: Context) -> Outcome:
    found = Findings()
    if args["supported"]:
        system = read_os_release(args["os_release_file"])
        name, version = system.get("ID", "unknown"), system.get("VERSION_ID", "unknown")
        found.detail |= {"os": f"{name} {version}", "architecture": platform.machine(), "glibc": glibc_version()}
        wanted = " or ".join(args["supported"])
        advice = "install a supported system, or add this one to preflight_supported_os once molecule has run on it"
        found.add(wanted, f"{name} {version}", supported(name, version, args["supported"]), f"{name} {version}, not {wanted}; {advice}")
    architecture, glibc_min = args["architecture"], args["glibc_min"]
    if args["wheel_tag"]:
        glibc_min, architecture = split_tag(args["wheel_tag"])
    if architecture:
        machine = platform.machine()
        found.detail["architecture"] = machine
        problem = f"the machine is {machine}, not {architecture}; build the release for {machine}"
        found.add(f"architecture {architecture}", f"architecture {machine}", machine == architecture, problem)
    if glibc_min:
        glibc = glibc_version()
        found.detail["glibc"] = glibc
        problem = f"glibc is {glibc or 'not there'}, older than {glibc_min}; build the release on an older system"
        found.add(f"glibc ≥ {glibc_min}", f"glibc {glibc or 'not found'}", version_at_least(glibc, glibc_min), problem)
    if args["python_min"]:
        program, minimum = args["python"], args["python_min"]
        version = python_version(program, context)
        found.detail["python"] = version
        seen = f"{program} is Python {version}" if version else f"{program} is not there or does not run"
        found.add(f"{program} ≥ {minimum}", seen, version_at_least(version, minimum), f"{seen}; install Python {minimum} or newer")
        if args["python_below"]:
            ok = bool(version) and not version_at_least(version, args["python_below"])
            found.add(f"{program} < {args['python_below']}", seen, ok, f"{seen}; install one older than {args['python_below']}")
    return found.outcome()


def read_os_release(path: str) -> dict:
    """The fields of an os-release file (freedesktop.org's format, shell quoting)."""
    fields = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            key, sign, value = line.strip().partition("=")
            if sign and not key.startswith("#"):
                fields[key] = "".join(shlex.split(value))
    return fields


def supported(name: str, version: str, accepted: list) -> bool:
    """Is the system one of `accepted`: items `debian 12` (this version, or one of its minor ones) or `debian >=12`."""
    for item in accepted:
        wanted, _, rule = item.partition(" ")
        if wanted != name:
            continue
        rule = rule.strip()
        if rule.startswith(">="):
            if version_at_least(version, rule[2:].strip()):
                return True
        elif not rule or version == rule or version.startswith(f"{rule}."):
            return True
    return False


def split_tag(tag: str) -> tuple[str | None, str]:
    """(oldest glibc, architecture) of a wheel's platform tag: `manylinux_2_28_x86_64`, `manylinux2014_aarch64`, `linux_x86_64`."""
    new = re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", tag)
    if new:
        return f"{new.group(1)}.{new.group(2)}", new.group(3)
    prefix, _, architecture = tag.partition("_")
    return _OLD_TAGS.get(prefix), architecture


def glibc_version() -> str:
    """The C library's version, empty where it is not glibc."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return ""
    return version if name == "glibc" else ""


def python_version(program: str, context: Context) -> str:
    """The version an interpreter states; empty if it does not run."""
    try:
        done = execute([program, "-I", "-c", "import platform; print(platform.python_version())"], context)
    except ProbeError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _check(args: dict) -> list:
    problems = []
    if args["wheel_tag"] and (not re.fullmatch(r"(manylinux\d*(_\d+_\d+)?|linux)_\w+", args["wheel_tag"])):
        problems.append(("wheel_tag", "is no platform tag such as manylinux_2_28_x86_64"))
    if not any(args[key] for key in ("supported", "architecture", "glibc_min", "wheel_tag", "python_min")):
        problems.append(("supported", "give at least one of supported, architecture, glibc_min, wheel_tag, python_min"))
    return problems


PROBE = Probe(
    "os",
    "the operating system, its C library and its Python are what the release needs",
    {
        "supported": Arg("list", "accepted systems: `debian 12` or `debian >=12`", default=[], elements="str"),
        "architecture": Arg("str", "machine such as x86_64"),
        "glibc_min": Arg("str", "oldest glibc allowed"),
        "wheel_tag": Arg("str", "platform tag of the release's wheels; stands for architecture and glibc_min"),
        "python_min": Arg("str", "oldest Python allowed"),
        "python_below": Arg("str", "first Python that is too new"),
        "python": Arg("str", "the interpreter that python_min is about", default="/usr/bin/python3"),
        "os_release_file": Arg("str", "where the system states its name", default="/etc/os-release"),
    },
    run,
    _check,
)
