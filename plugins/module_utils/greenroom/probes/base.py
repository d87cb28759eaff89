"""What every probe shares: its declarative spec, the context of one attempt, comparisons, small helpers.

A probe is one file in this folder. It has a function `run(args, context) -> Outcome` and a constant `PROBE` that
names its type, documents its arguments and points at `run`; `probes/__init__.py` lists the file. `run` may

* return an `Outcome`: True/False for pass/fail, or a status name such as `no_evidence`;
* raise `ProbeError` when it cannot be carried out at all (a missing library or program): an `error` record, no retries;
* raise anything else: an `error` record with the exception's text.

What the target does wrong (refuses, does not answer, answers otherwise) is a `fail` with what was seen, not an exception.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..masking import mask_lookalikes

SHOWN = 160  # characters of a measured text that a record shows at most


class ProbeError(Exception):
    """The probe itself cannot run (library, program, permission); says what to do about it."""


class Outcome(NamedTuple):
    """What one attempt of a probe found.

    status: True (pass), False (fail) or one of the statuses of `records`; expected, observed: readable measured values;
    reason: why it did not pass and what to do (needed unless it passed); detail: raw figures, never a secret.
    """

    status: Any
    expected: Any
    observed: Any
    reason: str | None = None
    detail: dict | None = None


def shown(value: Any) -> str:
    """`value` for a reader, cut to a line's length."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


class Findings:
    """Collects, part by part, what a probe expects, sees and finds wrong."""

    def __init__(self):
        self.expected: list = []
        self.observed: list = []
        self.problems: list = []
        self.detail: dict = {}

    def add(self, expected: str | None, observed: str, ok: bool = True, problem: str | None = None) -> None:
        """One part; `problem` says what is wrong with it where `observed, not expected` would not do."""
        if expected:
            self.expected.append(expected)
        self.observed.append(observed)
        if not ok:
            self.problems.append(problem or f"{observed}, not {expected}")

    def outcome(self, where: str | None = None) -> Outcome:
        """Passes if no part was wrong; `where` goes before what was."""
        reason = "; ".join(self.problems)
        return Outcome(
            not self.problems,
            "; ".join(self.expected),
            "; ".join(self.observed),
            (f"{where}: {reason}" if where else reason) or None,
            self.detail or None,
        )


@dataclasses.dataclass(frozen=True)
class Arg:
    """One argument of a probe.

    type: str, int, float, bool, list, dict, any, `secret` (the name of a key of the module's `secrets`) or
    `secrets` (a dict whose values are such names). elements: the type of a list's items.
    """

    type: str
    doc: str
    required: bool = False
    default: Any = None
    choices: tuple = ()
    elements: str | None = None


@dataclasses.dataclass(frozen=True)
class Probe:
    """A probe type. `check(args)` may refuse a combination of arguments: it returns problems as (key, message)."""

    type: str
    doc: str
    args: Mapping[str, Arg]
    run: Callable[[dict, Context], Outcome]
    check: Callable[[dict], list] | None = None


class Context:
    """One attempt: how long it may still take, and the secrets it may look up by key."""

    def __init__(self, timeout_s: float, secrets: Mapping[str, str] | None = None):
        self.timeout_s = float(timeout_s)
        self.deadline = time.monotonic() + self.timeout_s
        self._secrets = secrets or {}

    def remaining(self) -> float:
        """Seconds left of this attempt. Raises TimeoutError when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def secret(self, key: str | None) -> str | None:
        """The secret named `key`; None for no key. Raises ProbeError if there is no such secret."""
        if key is None:
            return None
        if key not in self._secrets:
            raise ProbeError(f"there is no secret {key!r}; pass it in the module's `secrets`")
        return self._secrets[key]


# --- arguments -------------------------------------------------------------------------------------------------------

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


def convert(value: Any, kind: str) -> Any:
    """`value` as type `kind` (see Arg), strictly: numbers and truth values may also come as their text.

    Raises ValueError without repeating the value: it could be a secret put in the wrong place.
    """
    if kind == "any":
        return value
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
            return value.lower() in _TRUE
    elif kind == "int":
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif kind == "float":
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value.strip()):
            return float(value)
    elif kind in ("str", "secret"):
        if isinstance(value, str):
            return str(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
    elif kind == "list":
        if isinstance(value, (list, tuple)):
            return list(value)
    elif kind in ("dict", "secrets"):
        if isinstance(value, Mapping):
            if kind == "secrets" and not all(isinstance(key, str) for key in value.values()):
                raise ValueError("must map each name to the key of a secret, a text")
            return dict(value)
    else:
        raise AssertionError(f"unknown argument type {kind}")
    raise ValueError(f"must be {kind}, not {type(value).__name__}" + (" of another form" if isinstance(value, str) else ""))


def validate(probe: Probe, given: Mapping[str, Any], secrets: Mapping[str, str]) -> tuple[dict, list]:
    """Check and convert the arguments `given` to `probe`: (arguments with defaults, problems as (key, message))."""
    args, problems = {}, []
    for key in given:
        if key not in probe.args:
            problems.append((key, f"unknown; a probe of type {probe.type} knows {', '.join(sorted(probe.args))}"))
    for key, spec in probe.args.items():
        value = given.get(key)
        if value is None:
            if spec.required:
                problems.append((key, f"missing; {spec.doc}"))
            args[key] = spec.default
            continue
        try:
            if spec.elements and isinstance(value, (str, int, float)):
                value = [value]  # one item may stand for a list of one
            value = convert(value, spec.type)
            if spec.elements:
                value = [convert(item, spec.elements) for item in value]
        except ValueError as error:
            problems.append((key, str(error)))
            continue
        if spec.choices and value not in spec.choices:
            problems.append((key, f"must be one of {', '.join(map(str, spec.choices))}"))
        names = (
            [value] if spec.type == "secret" else value.values() if spec.type == "secrets" else value if spec.elements == "secret" else []
        )
        for name in names:
            if name not in secrets:
                problems.append((key, f"names the secret {name!r}, which is not in the module's `secrets`"))
        args[key] = value
    if not problems and probe.check:
        problems = list(probe.check(args))
    return args, problems


# --- the outside world -----------------------------------------------------------------------------------------------


def need(library: str) -> Any:
    """Import a library that only some interpreters have. Raises ProbeError that says which one to use."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ProbeError(
            f"the Python library {library} cannot be imported by {sys.executable} ({error}); run health_check with Greenroom's own "
            "environment on the host: set ansible_python_interpreter to /opt/greenroom/venv/bin/python (the role host_base installs it)"
        ) from error


def network_problem(error: BaseException, timeout_s: float) -> str:
    """A network failure in words a reader can act on."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, (TimeoutError, socket.timeout)):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"{type(error).__name__}: {error}"


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """A verifying TLS context, with the system's authorities or only those of `ca_file`. Raises ProbeError if it cannot be read."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ProbeError(f"the CA file {ca_file} cannot be used: {getattr(error, 'strerror', None) or error}") from error


def execute(
    argv: list, context: Context, *, stdin: str | None = None, env: dict | None = None, **options: Any
) -> subprocess.CompletedProcess:
    """Run a program without a shell and collect its output as text; the program and its children end with the attempt.

    Raises ProbeError if the program does not exist, TimeoutError if it takes longer than the attempt may.
    """
    if env is None:
        env = dict(os.environ, LC_ALL="C.UTF-8")
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="replace", env=env, start_new_session=True, **options,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ProbeError(f"there is no {error.filename or argv[0]} on this host") from error
    except PermissionError as error:
        raise ProbeError(f"{argv[0]} may not be run: {error.strerror}") from error
    try:
        out, err = process.communicate(stdin, timeout=context.remaining())
    except (subprocess.TimeoutExpired, TimeoutError) as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"{argv[0]} did not end within {context.timeout_s:g} s") from error
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def last_line(text: str) -> str:
    """The last line of a program's output that says something, shortened and with what looks like a secret masked."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shown(mask_lookalikes(lines[-1])) if lines else ""
