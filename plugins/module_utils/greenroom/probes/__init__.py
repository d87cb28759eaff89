"""The registry of probes: type -> Probe. A new probe is one new file, listed here.

The imports are written out because Ansible ships a module's files by following its imports statically.
"""

from __future__ import annotations

from . import (
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

PROBES = {
    module.PROBE.type: module.PROBE
    for module in (
        amqp, apt, clock, command, connection_budget, dns, environ, file, http, log, metrics, os_release, ports, postgresql,
        python_env, redis, resources, systemd, tcp, tls,
    )
}  # fmt: skip
