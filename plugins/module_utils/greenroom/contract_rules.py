"""What a service contract must mean beyond its schema, together with the inventory, the secrets and production's names.

Each rule takes a `Context` and yields problems. `RULES` says which sections of the contract a rule reads: a rule whose
section the schema has refused is left out (that run is refused anyway). No rule ever shows a secret's value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .gate import is_placeholder
from .problems import Problem, nearest
from .topology import INTERNAL_PORT

SHORTEST_SECRET = 8  # characters; shorter ones could also not be masked in output without masking ordinary words
RESERVED_NAMES = {"greenroom", "root", "daemon", "nobody", "postgres", "rabbitmq", "nginx", "www-data", "prometheus", "sshd", "backup"}
SLOT_KEYS = ("PORT", "METRICS_PORT")
# A listener with a number written out: both slots would fight for it.
FIXED_PORT = re.compile(r"(?:--port[= ]|--bind[= ]\S*:|(?<!\S)-b[= ]?\S*:|(?<!\S)-p[= ]?)(\d+)")


@dataclass(frozen=True)
class Context:
    """What rules look at; `contract` has its defaults filled in, a None means: not to be checked."""

    contract: dict
    secrets: dict | None = None
    markers: dict | None = None
    groups: dict | None = None
    addresses: dict | None = None

    @property
    def dependencies(self) -> dict:
        return self.contract["dependencies"]

    @property
    def secret_env(self) -> dict:
        """{key: value} of vault_service_env; empty if it is no mapping (that is a problem of its own)."""
        values = (self.secrets or {}).get("vault_service_env")
        return values if isinstance(values, dict) else {}


def needed_groups(contract: dict) -> dict[str, tuple[int, int | None]]:
    """Groups of hosts the contract needs: {group: (least, most or None)}. `contract` is normalized."""
    needed: dict[str, tuple[int, int | None]] = {"gateway": (1, 1), "app": (1, None)}
    for kind in ("database", "broker", "cache"):
        if contract["dependencies"].get(kind, {}).get("mode") == "installed":
            needed[kind] = (1, None)
    if "backup" in contract:
        needed["restore"] = (1, None)
    return needed


def needed_secrets(contract: dict) -> list[str]:
    """The vault variables, beside vault_service_env, that the contract needs. `contract` is normalized."""
    names = []
    if "database" in contract["dependencies"]:
        names += ["vault_postgresql_owner_password", "vault_postgresql_app_password"]
    if "broker" in contract["dependencies"]:
        names.append("vault_rabbitmq_password")
    if contract["dependencies"].get("cache", {}).get("mode") == "installed":
        names.append("vault_redis_password")
    if "notify" in contract:
        names.append("vault_notify_url")
    if "backup" in contract:
        names += [
            "vault_db_backup_store_key_id", "vault_db_backup_store_secret",
            "vault_db_backup_restore_key_id", "vault_db_backup_restore_secret",
            "vault_db_backup_cipher_passphrase", "vault_db_backup_identity",
        ]  # fmt: skip
    return names


def names(context: Context) -> Iterator[Problem]:
    """The service's and the processes' names make a user and units that nothing else has."""
    service = context.contract["name"]
    if service in RESERVED_NAMES or service.startswith("systemd-"):
        yield Problem("service.name", f"{service} is a name the system uses itself", "Write another name")
    units: dict[str, str] = {"slot-agent": "the slot agent"}
    for index, process in enumerate(context.contract["processes"]):
        path = f"service.processes[{index}]"
        copies = [process["name"], *(f"{process['name']}-{copy}" for copy in range(2, process["count"] + 1))]
        for unit in copies:
            if unit in units:
                yield Problem(f"{path}.name", f"the unit {service}-{unit} would also be that of {units[unit]}", "Write another name")
            units.setdefault(unit, f"process {process['name']}")


def origin(context: Context) -> Iterator[Problem]:
    """A release is built from a repository, or comes prebuilt; never both."""
    stated = [key for key in ("source", "artefact") if key in context.contract]
    if not stated:
        fix = "Write `source: {git: …, ref: …}`, or `artefact: {archive: …, sha256: …, version: …}` for an archive that is prebuilt"
        yield Problem("service.source", "is missing, and there is no `artefact` either", fix)
    elif len(stated) == 2:
        yield Problem("service.artefact", "is given beside `source`: which of the two shall be deployed?", "Remove one of the two")


def processes(context: Context) -> Iterator[Problem]:
    """Exactly one web process; `every` for scheduled ones only; copies for workers only."""
    listed = context.contract["processes"]
    webs = [process["name"] for process in listed if process["kind"] == "web"]
    if len(webs) != 1:
        found = f"there are {len(webs)}: {', '.join(webs)}" if webs else "there is none"
        yield Problem("service.processes", f"exactly one process must be of kind web, {found}", "Give exactly one process `kind: web`")
    for index, process in enumerate(listed):
        path = f"service.processes[{index}]"
        if process["kind"] == "scheduled" and "every" not in process:
            yield Problem(f"{path}.every", f"is missing: {process['name']} is scheduled", "Write for example `every: 60s`")
        if process["kind"] != "scheduled" and "every" in process:
            yield Problem(
                f"{path}.every",
                f"{process['name']} is of kind {process['kind']}, which runs all the time",
                "Remove `every`, or write `kind: scheduled`",
            )
        if process["kind"] != "worker" and process["count"] != 1:
            yield Problem(
                f"{path}.count",
                f"a {process['kind']} process has one copy on a host",
                "Remove `count`; a web server takes its number of workers as an argument of its command",
            )


def commands(context: Context) -> Iterator[Problem]:
    """Placeholders in commands are known, no secret is among them, and no port is written out."""
    contract = context.contract
    env = {item["key"]: item for item in contract["env"]}
    known = {"PORT", "GREENROOM_SLOT", "GREENROOM_RELEASE", "GREENROOM_VERSION", *env}
    if "metrics" in contract:
        known.add("METRICS_PORT")
    ports = set(contract["ports"].values())
    for index, process in enumerate(contract["processes"]):
        path = f"service.processes[{index}].command"
        for name in re.findall(r"\$\{([^}]*)\}", process["command"]):
            if name not in known:
                hint = " (there is no `metrics` in the contract)" if name == "METRICS_PORT" else nearest(name, known)
                yield Problem(path, f"${{{name}}} is not known{hint}", "Use ${PORT}, ${GREENROOM_SLOT}, or declare the key in `env`")
            elif env.get(name, {}).get("secret"):
                yield Problem(
                    path,
                    f"${{{name}}} is a secret: every user of the host could read it in the process list",
                    "Let the program read it from its environment",
                )
        if process["kind"] == "web":
            written = {int(port) for port in FIXED_PORT.findall(process["command"])}
            written |= {port for port in ports if re.search(rf"(?<!\d){port}(?!\d)", process["command"])}
            for port in sorted(written):
                yield Problem(
                    path,
                    f"port {port} is written out: both slots run at the same time and would fight for it",
                    "Write ${PORT}; the slots' ports stand in `ports`",
                )


def ports(context: Context) -> Iterator[Problem]:
    """No two listeners of one host want the same port; a page served by the web process itself may share its port."""
    contract, dependencies = context.contract, context.dependencies
    slot, metrics = contract["ports"], contract.get("metrics", {}).get("ports", {})
    listeners = [("app", f"service.ports.{colour}", port) for colour, port in slot.items()]
    if metrics != slot:  # equal: one listener serves both
        listeners += [("app", f"service.metrics.ports.{colour}", port) for colour, port in metrics.items()]
    listeners.append(("gateway", "service.gateway.https_port", contract["gateway"]["https_port"]))
    listeners.append(("gateway", "the gateway's internal address", INTERNAL_PORT))
    listeners += [
        (kind, f"service.dependencies.{kind}.port", part["port"])
        for kind in ("database", "broker", "cache")
        if (part := dependencies.get(kind)) and part["mode"] == "installed"
    ]
    groups = context.groups or {}
    for index, (group, path, port) in enumerate(listeners):
        for other_group, other, other_port in listeners[:index]:
            shared = group == other_group or set(groups.get(group, ())) & set(groups.get(other_group, ()))
            if port == other_port and shared:
                path, other = (other, path) if not path.startswith("service.") else (path, other)
                yield Problem(path, f"port {port} is also that of {other}, on the same host", "Write another port")


def env(context: Context) -> Iterator[Problem]:
    """Keys are unique and not reserved; a secret has no value here, everything else has one."""
    seen: dict[str, int] = {}
    for index, item in enumerate(context.contract["env"]):
        key, path = item["key"], f"service.env[{index}]"
        if key in seen:
            yield Problem(f"{path}.key", f"{key} is already entry {seen[key]} of the list", "Remove one of the two")
        seen.setdefault(key, index)
        if key in SLOT_KEYS or key.startswith("GREENROOM_"):
            yield Problem(f"{path}.key", f"{key} is set by Greenroom for each slot", "Remove it from `env`")
        if item["secret"] and "value" in item:
            yield Problem(
                f"{path}.value",
                f"{key} is a secret, its value must not stand in the contract",
                f"Remove `value` and write it as `{key}` into vault_service_env",
            )
        if not item["secret"] and "value" not in item and item["required"]:
            yield Problem(
                f"{path}.value", f"{key} has no value", "Write its `value`, or `secret: true` and the value into vault_service_env"
            )
        if not item["secret"] and re.search(r"://[^/\s:@]*:[^/\s@]+@", str(item.get("value"))):
            fix = f"Write `secret: true` without a value here, and `{key}` into vault_service_env"
            yield Problem(f"{path}.value", f"{key} holds a password", fix)
        if (item["type"] == "enum") != ("choices" in item):
            yield Problem(
                f"{path}.choices", f"{key} is of type {item['type']}", "`type: enum` needs `choices`, and only that type has them"
            )
        if "minimum" in item and "maximum" in item and item["minimum"] > item["maximum"]:
            yield Problem(f"{path}.minimum", f"{key}: minimum is above maximum", "Write a minimum that is not above the maximum")
        if "pattern" in item:
            try:
                re.compile(item["pattern"])
            except re.error as error:
                yield Problem(f"{path}.pattern", f"{key}: is no regular expression ({error})", "Correct the expression")


def dependencies(context: Context) -> Iterator[Problem]:
    """Provided parts have an address, roles differ, keys that hold URLs are declared secrets; migrations have a database."""
    declared = {item["key"]: item for item in context.contract["env"]}
    for kind, part in context.dependencies.items():
        path = f"service.dependencies.{kind}"
        if kind != "cache" and part["mode"] == "provided" and not part["host"]:
            yield Problem(f"{path}.host", "is missing: the mode is provided", "Write the address at which it is provided")
        if kind != "cache" and part["mode"] == "installed" and part["host"]:
            fix = f"Remove it (the host is that of group {kind}), or write `mode: provided`"
            yield Problem(f"{path}.host", "is given, but the mode is installed", fix)
        key = part.get("url_key")
        wanted = f"`- {{key: {key}, type: url, secret: true}}`"
        if key and key not in declared:
            yield Problem(f"{path}.url_key", f"{key} is not declared in `env`{nearest(key, declared)}", f"Add {wanted} to `env`")
        elif key and not (declared[key]["type"] == "url" and (declared[key]["secret"] or (kind == "cache" and part["mode"] == "provided"))):
            yield Problem(f"{path}.url_key", f"{key} is not declared as a secret of type url", f"Write {wanted} in `env`")
    database = context.dependencies.get("database")
    if database and database["owner"] == database["user"]:
        yield Problem(
            "service.dependencies.database.user",
            "is also the owner: the service could change its own schema",
            "Write two roles: `owner` runs migrations, `user` is the service's",
        )
    if not database and "migration" in context.contract:
        yield Problem("service.migration", "there is no database to migrate", "Add `dependencies.database`, or remove `migration`")


def statements(context: Context) -> Iterator[Problem]:
    """What a person must state is stated, and is no placeholder (runbooks 002 L6, 004 L183: contacts nobody filled in)."""
    for item_id, reason in context.contract["not_applicable"].items():
        if is_placeholder(reason) or len(reason.strip()) < 10:
            yield Problem(f"service.not_applicable.{item_id}", "has no reason", "Say in a sentence why this requirement does not apply")
    for index, contact in enumerate(context.contract["contacts"]):
        for key, text in contact.items():
            if is_placeholder(text):
                path = f"service.contacts[{index}].{key}"
                yield Problem(path, "is a placeholder", "Write who it is and how to reach them, or remove the entry")


def commands_with_secrets(context: Context) -> Iterator[Problem]:
    """Secrets that commands read from standard input exist."""
    declared = {item["key"] for item in context.contract["env"] if item["secret"]}
    known = declared | set(context.secret_env)
    for section in ("configure", "cli_checks"):
        for index, item in enumerate(context.contract[section]):
            key = item["stdin_secret"]
            if key and context.secrets is not None and key not in known:
                path = f"service.{section}[{index}].stdin_secret"
                yield Problem(path, f"{key} is no secret{nearest(key, known)}", f"Add `{key}` to vault_service_env")


def hosts(context: Context) -> Iterator[Problem]:
    """The inventory has the hosts the contract needs, and no drill runs on a database host."""
    if context.groups is None:
        return
    groups = context.groups
    for group, (least, most) in needed_groups(context.contract).items():
        count = len(groups.get(group) or ())
        if count < least:
            yield Problem(
                f"groups.{group}",
                f"has {count} hosts, but the contract needs {'exactly ' if most else 'at least '}{least}",
                f"Add a host to the group {group}" + ("" if group in ("app", "gateway", "restore") else " or write `mode: provided`"),
            )
        elif most and count > most:
            yield Problem(
                f"groups.{group}",
                f"has {count} hosts ({', '.join(groups[group])}), but exactly {most} can hold the switch",
                f"Leave one host in the group {group}",
            )
    for host in sorted(set(groups.get("restore") or ()) & set(groups.get("database") or ())):
        yield Problem(
            "groups.restore", f"{host} is also a database host: a drill there could overwrite live data", "Take another host for restore"
        )
    seen: dict[str, str] = {}
    for host in groups.get("app") or ():
        address = (context.addresses or {}).get(host, host)
        if address in seen:
            yield Problem(
                "groups.app", f"{host} and {seen[address]} are the same host ({address})", "Remove one, or correct `ansible_host`"
            )
        seen.setdefault(address, host)


RULES: list[tuple[tuple[str, ...], Callable[[Context], Iterator[Problem]]]] = [
    (("name", "processes"), names),
    (("source", "artefact"), origin),
    (("processes",), processes),
    (("processes", "env", "ports", "metrics"), commands),
    (("ports", "metrics", "gateway", "dependencies"), ports),
    (("env",), env),
    (("env", "dependencies", "migration"), dependencies),
    (("contacts", "not_applicable"), statements),
    (("configure", "cli_checks", "env"), commands_with_secrets),
    (("dependencies",), hosts),
]
