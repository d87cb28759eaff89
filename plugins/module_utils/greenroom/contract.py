"""The service contract: its schema, its defaults, and the arithmetic on it (docs/contract.md).

`validate` answers with all problems at once; what the schema cannot say stands in contract_rules.py.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

from .contract_backup import BACKUP_RULES
from .contract_guard import GUARD_RULES
from .contract_load import LOAD_RULES
from .contract_rules import RULES, Context
from .contract_secrets import SECRET_RULES
from .contract_values import VALUE_RULES
from .problems import Places, Problem, as_dicts, joined, nearest, split
from .records import FAIL, NO_EVIDENCE, NOT_APPLICABLE, PASS, record

SLOTS = 2
MIGRATION_CONNECTIONS = 2  # the migration itself and the session that holds its advisory lock
RESERVED_CONNECTIONS = 10  # superuser_reserved_connections (3), exporter, backup, health checks and a person


def default_schema_path() -> Path:
    """schemas/service.json of the project this file lies in; a module shipped by Ansible gets the path as an argument."""
    return Path(__file__).resolve().parents[3] / "schemas" / "service.json"


def load_schema(path: str | Path | None = None) -> dict:
    """The JSON Schema of the contract. Raises OSError or ValueError if the file cannot be read."""
    return json.loads(Path(path or default_schema_path()).read_text(encoding="utf-8"))


def validate(
    contract: object,
    schema_path: str | Path | None = None,
    *,
    secrets: dict | None = None,
    markers: dict | None = None,
    groups: dict | None = None,
    addresses: dict | None = None,
    inventory_dir: str | Path | None = None,
) -> list[dict]:
    """All problems of a contract, as `{path, file, line, message, fix, text}`; an empty list means it is sound.

    `secrets` {vault_service_env: {key: value}, vault_postgresql_owner_password: …, …}; `markers` is production_markers;
    `groups` {group: [host]}; `addresses` {host: address}. What is None is not checked. Values of secrets never appear.
    """
    schema = load_schema(schema_path)
    problems = list(schema_problems(contract, schema))
    if isinstance(contract, dict):
        # A rule reads values of the right shape only: one that needs a section which the schema refused waits for the next run.
        broken = {(split(problem.path)[1:2] or [""])[0] for problem in problems}
        context = Context(normalized(contract, schema), secrets, markers, groups, addresses)
        for sections, rule in [*RULES, *BACKUP_RULES, *GUARD_RULES, *LOAD_RULES, *SECRET_RULES, *VALUE_RULES]:
            if not broken & set(sections):
                problems += rule(context)
    unique = list(dict.fromkeys(problems))
    return as_dicts(unique, Places(inventory_dir), contract)


def normalized(contract: dict, schema: dict | None = None) -> dict:
    """A copy of the contract with the schema's defaults filled in; optional parts without a default stay absent."""
    schema = schema or load_schema()
    return _filled(copy.deepcopy(contract), schema, schema)


def connections_required(contract: dict, app_hosts: int) -> dict:
    """How many connections the database server must allow (design: two slots x hosts x processes x pool + the rest).

    `contract` is normalized. Returns `{required, slots, hosts, processes, pool_max, application, migration, reserve}`, all
    connections or counts. `application` is also the limit of the application role. Workers count in both slots: while
    the old ones stop and the new ones start, both hold connections.
    """
    processes = sum(process.get("count", 1) for process in contract["processes"])
    application = SLOTS * app_hosts * processes * contract["pool_max"]
    migration = MIGRATION_CONNECTIONS if "migration" in contract else 0
    return {
        "required": application + migration + RESERVED_CONNECTIONS,
        "slots": SLOTS,
        "hosts": app_hosts,
        "processes": processes,
        "pool_max": contract["pool_max"],
        "application": application,
        "migration": migration,
        "reserve": RESERVED_CONNECTIONS,
    }


def evidence(contract: object, markers: object, problems: list[dict]) -> list[dict]:
    """Evidence records of what a contract states: isolation from production's database (003 L29), the services in scope (003 L19).

    `problems` are those of `validate`. A contract that is no mapping leaves no records: the run is refused anyway.
    """
    if not isinstance(contract, dict) or any(problem["path"] == "service" for problem in problems):
        return []
    return [_isolation(contract, markers, problems), _inventory(contract, problems)]


def _isolation(contract: dict, markers: object, problems: list[dict]) -> dict:
    item = "prep.isolation.database"
    dependencies = contract.get("dependencies", {})
    if not isinstance(dependencies, dict):
        return record(item, FAIL, reason="the contract's dependencies are malformed")
    database = dependencies.get("database")
    production = markers.get("databases") if isinstance(markers, dict) else None
    if not database:
        return record(item, NOT_APPLICABLE, reason="the service uses no database")
    observed = database.get("name") if isinstance(database, dict) else None
    if not production:
        reason = "production_markers.databases names no database of production to compare with"
        return record(item, NO_EVIDENCE, "another database than production's", observed, reason=reason)
    expected = f"none of production's: {', '.join(map(str, production))}"
    wrong = [problem["text"] for problem in problems if "production_markers.databases" in problem["message"]]
    if wrong or observed is None:
        return record(item, FAIL, expected, observed, reason="; ".join(wrong) or "the contract names no database")
    return record(item, PASS, expected, observed)


def _inventory(contract: dict, problems: list[dict]) -> dict:
    """Stated is every process and dependency of the contract; whether each one runs is measured by the checks of verify."""
    item, expected = "prep.services.inventory", "every process and dependency stated, without placeholder"
    if problems:
        return record(item, FAIL, expected, reason="the contract is refused, see its problems")
    parts = [f"{process['name']} ({process['kind']})" for process in contract["processes"]]
    parts += [f"{kind} ({part.get('mode', 'installed')})" for kind, part in (contract.get("dependencies") or {}).items()]
    return record(item, PASS, expected, ", ".join(parts))


def resolve(node: dict, schema: dict) -> dict:
    """A sub-schema with its `$ref` into `$defs` merged in; keys beside the `$ref` win."""
    if "$ref" not in node:
        return node
    target = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def schema_problems(contract: object, schema: dict) -> Iterator[Problem]:
    """What the JSON Schema refuses, as problems with a fix made from the schema's descriptions and examples."""
    for error in _validator(schema).iter_errors(contract):
        path = joined(["service", *error.absolute_path])
        node = _schema_at(schema, list(error.absolute_path))
        yield from _explained(error, path, node, schema)


def _explained(error, path: str, node: dict, schema: dict) -> Iterator[Problem]:
    """The problems of one schema error; a value is shown only where it cannot be a secret put into the wrong place."""
    keyword, value = error.validator, error.validator_value
    if keyword == "required":
        key = error.message.split("'")[1]
        missing = resolve(node.get("properties", {}).get(key, {}), schema)
        yield Problem(f"{path}.{key}", "is missing", _advice(key, missing))
    elif keyword == "additionalProperties" and value is False:
        known = list(node.get("properties", {}))
        for key in sorted(set(error.instance) - set(known)):
            fix = f"Remove it, or write one of: {', '.join(known)}"
            yield Problem(f"{path}.{key}", f"is not a key of the contract{nearest(key, known)}", fix)
    elif keyword == "type":
        wanted = " or ".join([value] if isinstance(value, str) else value)
        yield Problem(path, f"must be {wanted}, but is {_kind(error.instance)}", _advice(path.rsplit(".", 1)[-1], node))
    elif keyword in ("minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxLength", "minLength"):
        words = {
            "minItems": "needs at least {} entries",
            "minimum": "must be at least {}",
            "maximum": "must be at most {}",
            "exclusiveMinimum": "must be above {}",
            "maxLength": "may have at most {} characters",
            "minLength": "needs at least {} characters",
        }
        yield Problem(path, words.get(keyword, keyword + " {}").format(value), _advice(path.rsplit(".", 1)[-1], node))
    elif keyword == "enum":
        known = ", ".join(str(choice) for choice in value)
        yield Problem(path, f"is none of the known values{nearest(str(error.instance), map(str, value))}", f"Write one of: {known}")
    elif keyword == "uniqueItems":
        yield Problem(path, "holds an entry twice", "Remove the second one")
    elif keyword == "pattern" and "propertyNames" in error.absolute_schema_path:
        yield Problem(path, f"the key {error.instance!r} is malformed", f"Write keys that match {value}")
    else:
        yield Problem(path, "is malformed", _advice(path.rsplit(".", 1)[-1], node))


def _advice(key: str, node: dict) -> str:
    """What to write for `key`: its description and an example of its sub-schema."""
    text = node.get("description", "")
    if node.get("examples"):
        text += f" Write for example `{key.split('[')[0]}: {json.dumps(node['examples'][0], ensure_ascii=False)}`"
    return text.strip() or "See docs/contract.md"


def _kind(value: object) -> str:
    if value is None:
        return "empty"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def _validator(schema: dict):
    """The library's validator with one rule made stricter: in Python `$` also matches before a final line break."""
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    def pattern(_validator, wanted, instance, _schema):
        strict = wanted[:-1] + r"\Z" if wanted.endswith("$") else wanted
        if isinstance(instance, str) and not re.search(strict, instance):
            yield ValidationError("is malformed")

    return extend(Draft202012Validator, {"pattern": pattern})(schema)


def _schema_at(schema: dict, parts: list) -> dict:
    """The sub-schema that describes the value at `parts`; an empty one where the contract goes beyond the schema."""
    node = schema
    for part in parts:
        node = resolve(node, schema)
        child = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part, node.get("additionalProperties"))
        node = child if isinstance(child, dict) else {}
    return resolve(node, schema)


def _filled(value: object, node: dict, schema: dict) -> object:
    node = resolve(node, schema)
    if isinstance(value, dict) and "properties" in node:
        for key, child in node["properties"].items():
            child = resolve(child, schema)
            if key not in value and "default" in child:
                value[key] = copy.deepcopy(child["default"])
            if key in value:
                value[key] = _filled(value[key], child, schema)
    elif isinstance(value, list) and "items" in node:
        value[:] = [_filled(item, node["items"], schema) for item in value]
    return value
