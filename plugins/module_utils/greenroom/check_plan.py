"""Which probes a service's contract asks for: the one set of checks for the idle slot, the gateway, a rollback and a drill.

Each function returns a list of probes for the module `health_check`. Nothing is measured here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from .switch import other
from .units import background_units, process_units, web_unit

HTTP_TYPES = ("http", "metrics")  # probes that speak to the service's own address
SAMPLES = 30  # requests for a P95; 20 is the least that has one
TIMEOUT_S = 10.0

# RabbitMQ writes a report over many lines, each with the same time, level and Erlang process (seen on 3.10).
BROKER_EVENT = r"\S+ \S+ \[\w+\] <[\d.]+>"



class PlanError(ValueError):
    """The contract asks for checks that cannot be planned; names the key."""


def runner(service: Mapping, slot: str) -> list[str]:
    """The beginning of a command line that runs a command as the service user in a slot's environment."""
    return [f"/usr/local/bin/{service['name']}-run", slot]


def services(service: Mapping, slot: str) -> list[tuple[str, str]]:
    """(unit, kind) of every process of a slot, copies included; a scheduled process with the service that its timer starts."""
    return [(f"{one['name']}@{slot}.service", one["kind"]) for one in process_units(service)]


def _health(service: Mapping, where: Mapping) -> dict:
    return {"type": "http", "path": service["health"]["path"], "timeout_s": TIMEOUT_S, **where}


def _states(service: Mapping) -> dict:
    """JSON fields of a healthy answer. A dependency that the contract names must be there, as `healthy` or as an object whose status is."""
    health = service["health"]
    fields = {health["status_field"]: health["healthy"]}
    if health.get("dependency_field"):
        for name in service.get("dependencies") or {}:
            fields[f"{health['dependency_field']}.{name}.{health['status_field']}"] = health["healthy"]
    return fields


def _running(service: Mapping, release: Mapping) -> dict:
    """JSON fields that say which release answers: {version, release} of `release` under the contract's names for them."""
    health = service["health"]
    wanted = {"version_field": str(release["version"]), "release_field": str(release["release"])}
    return {health[field]: value for field, value in wanted.items() if health.get(field)}


def start_probes(service: Mapping, slot: str) -> list[dict]:
    """Waits for a slot that was started: it answers healthy within the contract's time (runbook 003 L351-363)."""
    limit = service["health"]["start_limit_s"]
    return [
        {"id": "release.start.app", "name": f"slot {slot}", "within_s": limit, "json": _states(service), "detail": {"limit_s": limit},
         **_health(service, {"base_url": slot_url(service, slot)})},
    ]  # fmt: skip


def slot_url(service: Mapping, slot: str) -> str:
    """Address of a slot's web process on its own host."""
    return f"http://127.0.0.1:{service['ports'][slot]}"


def gateway_url(service: Mapping) -> str:
    """The address users have."""
    name, port = service["gateway"]["server_names"][0], int(service["gateway"]["https_port"])
    return f"https://{name}" + ("" if port == 443 else f":{port}")


def _core(service: Mapping, where: Mapping, release: Mapping, label: str) -> list[dict]:
    """Health, latency, version and the contract's own checks against one place. where: base_url and how it is reached."""
    health = _health(service, where)
    probes = [
        {**health, "id": "verify.health.http", "name": label, "json": _states(service)},
        {**health, "id": "verify.health.latency", "name": label, "latency_ms": service["health"]["latency_ms"], "samples": SAMPLES,
         "timeout_s": 30.0},
    ]  # fmt: skip
    if running := _running(service, release):
        probes.append({**health, "id": "release.running_version", "name": label, "json": running})
    probes += [probe for check in service.get("checks") or [] if (probe := _placed(check, where, label))]
    return probes


def slot_probes(service: Mapping, slot: str, release: Mapping) -> list[dict]:
    """The checks of a slot, on its app host. release: {version, release} that must be running there.

    Where the health page says neither, the environment of the process does.
    """
    label = f"slot {slot}"
    probes = _core(service, {"base_url": slot_url(service, slot)}, release, label)
    if not _running(service, release):
        said = {"type": "environ", "unit": web_unit(service, slot), "env_files": env_files(service, slot)[:1]}
        probes.append({"id": "release.running_version", "name": label, **said})
    return probes


def gateway_probes(service: Mapping, release: Mapping, connect_to: str, ca_file: str) -> list[dict]:
    """The checks through the gateway, as a user comes: TLS with a verified certificate, then the same as of a slot.

    connect_to: the gateway's address. A check of the contract that does not use the service's address says nothing about the gateway and
    is left out.
    """
    port = int(service["gateway"]["https_port"])
    where = {"base_url": gateway_url(service), "connect_to": f"[{connect_to}]:{port}" if ":" in connect_to else f"{connect_to}:{port}",
             "ca_file": ca_file}  # fmt: skip
    tls = [
        {"id": "sec.tls", "type": "tls", "name": f"gateway as {name}", "host": name, "port": port, "connect_to": where["connect_to"],
         "ca_file": ca_file, "timeout_s": TIMEOUT_S}
        for name in service["gateway"]["server_names"]
    ]  # fmt: skip
    return [*tls, *_core(service, where, release, "gateway")]


def _placed(check: Mapping, where: Mapping, label: str) -> dict | None:
    """A check of the contract at a place; None if it has nothing to do with that place's address (and the place is not its own host).

    `{base_url}` is replaced wherever it stands; an HTTP check that names only a path is completed. Secrets stay names of keys.
    """
    made = _replaced(dict(check), where["base_url"])
    uses = made != dict(check)
    if made["type"] in HTTP_TYPES and not made.get("url") and not made.get("base_url"):
        made["base_url"], uses = where["base_url"], True
    remote = "connect_to" in where
    if remote and not uses:
        return None
    if remote and made["type"] in HTTP_TYPES:
        made = {**{key: where[key] for key in ("connect_to", "ca_file")}, **made}
    said = made.get("name") or (f"{made.get('method', 'GET')} {made.get('path')}" if made.get("path") else made["type"])
    made["name"] = f"{label}: {said}"
    made.setdefault("timeout_s", TIMEOUT_S)
    return made


def _replaced(value: object, base_url: str) -> object:
    if isinstance(value, str):
        return value.replace("{base_url}", base_url)
    if isinstance(value, Mapping):
        return {key: _replaced(inner, base_url) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, base_url) for inner in value]
    return value


def env_files(service: Mapping, slot: str) -> list[str]:
    """The files that make the environment of a slot's processes, in systemd's order."""
    name = service["name"]
    return [f"/opt/{name}/slots/{slot}/config/service.env", f"/etc/{name}/credentials.env", f"/etc/{name}/slot-{slot}.env"]


def system_probes(service: Mapping, slot: str, disk_gb: float = 1.0) -> list[dict]:
    """The rest of "the health check passes as a whole" on an app host: the process, its environment, the host (runbook 000 L27-32)."""
    unit = web_unit(service, slot)
    parts = [
        {"type": "systemd", "name": "process", "unit": unit, "active": "active", "restarts_max": 0},
        {"type": "environ", "name": "environment", "unit": unit, "env_files": env_files(service, slot)},
        {"type": "resources", "name": "resources", "paths": [f"/opt/{service['name']}"], "disk_gb": disk_gb, "inodes_percent": 5},
    ]
    return [{**part, "id": "verify.health.script", "name": f"slot {slot}: {part['name']}", "timeout_s": TIMEOUT_S} for part in parts]


def cli_probes(service: Mapping, slot: str, configuration: bool) -> list[dict]:
    """The contract's `cli_checks`, in a slot's environment: those that prove the configuration (ids `config.…`), or all the others."""
    probes = []
    for check in service.get("cli_checks") or []:
        if check["id"].startswith("config.") != configuration:
            continue
        probe = {"id": check["id"], "type": "command", "argv": [*runner(service, slot), *split(check["command"], check["id"])],
                 "name": f"slot {slot}: {check['command']}"[:100], "json": check.get("expect") or {},
                 "timeout_s": float(check.get("time_limit_s") or 30)}  # fmt: skip
        if check.get("stdin_secret"):
            probe["stdin_key"] = check["stdin_secret"]
        probes.append(probe)
    return probes


def configure_steps(service: Mapping) -> list[dict]:
    """The contract's `configure` as steps for the module `service_configure`."""
    names = {"id": "id", "name": "name", "command": "command", "unless": "unless", "stdin_secret": "stdin_key"}
    return [{ours: step[theirs] for theirs, ours in names.items() if step.get(theirs)} for step in service.get("configure") or []]


def split(command: str, key: str) -> list[str]:
    """A command of the contract as program and arguments. Raises PlanError for quotes without an end."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise PlanError(f"{key}: the command cannot be split: {error}") from error


def log_probes(
    service: Mapping, slot: str, since: str, *, format: str = "json", allow: Iterable[str] = (), kinds: Iterable[str] = ("web",),
    may_be_empty: bool = False, secret_keys: Iterable[str] = (),
) -> list[dict]:  # fmt: skip
    """The journal of a slot's units since a moment: no errors but the allowed, no secret (runbook 003 L474-501; 001 §8.1).

    since: ISO 8601 or seconds. kinds: of the processes that run there. A web process that wrote nothing is suspicious unless
    `may_be_empty`; a worker may have had nothing to do.
    """
    return [
        {"id": "verify.logs.clean", "type": "log", "name": unit, "unit": unit, "since": since, "format": format, "allow": list(allow),
         "allow_empty": may_be_empty or kind != "web", "absent_secrets": list(secret_keys), "timeout_s": 30.0}
        for unit, kind in services(service, slot) if kind in kinds
    ]  # fmt: skip


def worker_probes(service: Mapping, slot: str, other_in_use: bool = True, *, within_s: float = 45.0) -> list[dict]:
    """Worker and scheduled units are active for `slot` and inactive for the other one (design: two versions would eat one queue).

    other_in_use: whether the other slot leads to a release; units of an empty slot cannot even be loaded.
    within_s: seconds the slot agents have to follow a switch; their poll and the old units' stop fit in.
    """
    wanted = [(slot, "active"), (other(slot), "inactive")] if other_in_use else [(slot, "active")]
    return [
        {"id": "verify.health.script", "type": "systemd", "name": f"{unit} is {state}", "unit": unit, "active": state, "within_s": within_s}
        for one, state in wanted for unit in background_units(service, one)
    ]  # fmt: skip


def server_log_probes(files: Iterable[str], folders: Iterable[str], since: str, *, allow: Iterable[str] = ()) -> list[dict]:
    """The logs of PostgreSQL and RabbitMQ since a moment. files: all logs that were found; a folder of `folders` without any is red.

    A server that had nothing to say is fine: its logs are of what goes wrong.
    """
    found = {folder.rstrip("/"): sorted(path for path in files if path.rpartition("/")[0] == folder.rstrip("/")) for folder in folders}
    names = [name for folder, paths in found.items() for name in (paths or [f"{folder}/*.log"])]
    return [
        {"id": "verify.logs.clean", "type": "log", "name": name, "path": name, "since": since, "format": "text", "allow": list(allow),
         "allow_empty": True, "timeout_s": 30.0, "event": BROKER_EVENT}
        for name in names
    ]  # fmt: skip


def run_started(run_id: str) -> str:
    """When a run began, ISO 8601, from its id (`20261120T091244Z-a1b2c3`). Raises PlanError for another form."""
    stamp = run_id.partition("-")[0]
    if len(stamp) != 16 or stamp[8] != "T" or stamp[15] != "Z" or not (stamp[:8] + stamp[9:15]).isdigit():
        raise PlanError(f"run_id: {run_id!r} does not begin with a time such as 20261120T091244Z")
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}Z"
