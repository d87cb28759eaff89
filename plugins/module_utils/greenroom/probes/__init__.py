"""The registry of probes: type -> Probe. A new probe is one new file, named by its type and listed here.

A probe is loaded when it is asked for: Ansible ships source without bytecode, so what a call does not use would be compiled for nothing,
on every host in every task. Ansible finds the files to ship by reading imports, run or not: they are written out for it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

from .base import Probe

if False:
    from . import (  # noqa: F401 - shipped, and loaded by name below
        amqp,
        apt,
        clock,
        command,
        connection_budget,
        dns,
        environ,
        file,
        http,
        log,
        metrics,
        os_release,
        ports,
        postgresql,
        python_env,
        redis,
        resources,
        systemd,
        tcp,
        tls,
    )

TYPES = (
    "amqp", "apt", "clock", "command", "connection_budget", "dns", "environ", "file", "http", "log", "metrics", "os", "ports", "postgresql",
    "python_env", "redis", "resources", "systemd", "tcp", "tls",
)  # fmt: skip
FILES = {"os": "os_release"}  # of types that are not called as their file


class Registry(MutableMapping):
    """Type to Probe, as a dict; a missing type raises KeyError."""

    def __init__(self) -> None:
        self._loaded: dict[str, Probe | None] = dict.fromkeys(TYPES)

    def __getitem__(self, name: str) -> Probe:
        if self._loaded[name] is None:
            self._loaded[name] = import_module(f"{__name__}.{FILES.get(name, name)}").PROBE
        return self._loaded[name]

    def __setitem__(self, name: str, probe: Probe) -> None:
        self._loaded[name] = probe

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


PROBES = Registry()
