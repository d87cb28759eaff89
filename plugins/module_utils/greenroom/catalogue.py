"""The catalogue of requirements: what a report lists and a gate asks for.

The project's entries are in catalogue/any.yml, a service brings its own file beside it (contract key `catalogue`).
Read on the control node only (PyYAML). What each field means: docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("auto", "declared", "manual")
REQUIRED = ("id", "phase", "title", "threshold", "source", "kind", "system")
OPTIONAL = ("variants", "condition", "note", "measured_in", "not_built")


class CatalogueError(ValueError):
    """Raised for a catalogue that cannot be used; the message names every fault with file and line."""


@dataclass(frozen=True)
class Entry:
    """One requirement. `where` is `file:line`; `gate_phase` is the phase whose gate asks for it."""

    id: str
    phase: str
    title: str
    kind: str
    source: tuple[str, ...]
    threshold: object = None
    condition: str | None = None
    measured_in: str | None = None
    not_built: str | None = None
    where: str = ""

    @property
    def gate_phase(self) -> str:
        return self.measured_in or self.phase


@dataclass
class Catalogue:
    """Entries by id, in the order of their files."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def __iter__(self):
        return iter(self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self.entries

    def get(self, entry_id: object) -> Entry | None:
        return self.entries.get(entry_id) if isinstance(entry_id, str) else None

    @property
    def phases(self) -> list[str]:
        """Phases in the order of their first entry."""
        return list(dict.fromkeys(entry.phase for entry in self))


def load(paths: list[str | Path]) -> Catalogue:
    """Read and merge catalogue files.

    Raises CatalogueError listing everything wrong in all files: unreadable, not a list, unknown, missing or doubled fields,
    an id that is there twice (in one file or in two), an unknown kind, empty text.
    """
    catalogue, problems = Catalogue(), []
    for path in dict.fromkeys(str(path) for path in paths):
        try:
            found = _read(path)
        except CatalogueError as error:
            problems.append(str(error))
            continue
        for where, fields, faults in found:
            faults = faults or _faults(fields)
            if faults:
                name = fields.get("id") or "entry without id"
                problems += [f"{where}: {name}: {fault}" for fault in faults]
                continue
            known = catalogue.get(fields["id"])
            if known:
                problems.append(f"{where}: {known.id}: this id is already at {known.where}; an id names one requirement")
                continue
            catalogue.entries[fields["id"]] = Entry(
                where=where,
                source=tuple(str(source) for source in fields["source"]),
                **{key: fields.get(key) for key in ("id", "phase", "title", "kind", "threshold", "condition", "measured_in", "not_built")},
            )
    if problems:
        raise CatalogueError("the catalogue of requirements cannot be used:\n" + "\n".join(problems))
    return catalogue


def _faults(fields: dict) -> list[str]:
    """What is wrong with the fields of one entry, as sentences; empty if nothing is."""
    faults = [f"missing field {key!r}" for key in REQUIRED if key not in fields]
    faults += [f"unknown field {key!r}; known: {', '.join(REQUIRED + OPTIONAL)}" for key in fields if key not in REQUIRED + OPTIONAL]
    for key in ("id", "phase", "title", "system", "measured_in", "not_built", "condition"):
        if key in fields and not (isinstance(fields[key], str) and fields[key].strip()):
            faults.append(f"{key} must be text, not {fields[key]!r}")
    if "kind" in fields and fields["kind"] not in KINDS:
        faults.append(f"kind {fields['kind']!r} is none of {', '.join(KINDS)}")
    source = fields.get("source", ["x"])
    if not isinstance(source, list) or not source or not all(isinstance(item, str) and item.strip() for item in source):
        faults.append("source must be a list of texts with at least one")
    if "not_built" in fields and fields.get("kind") != "auto":
        faults.append("not_built is for entries of kind auto; other kinds need nothing built")
    return faults


def _read(path: str) -> list[tuple[str, dict, list[str]]]:
    """Entries of one file as (file:line, fields, faults). A key given twice is a fault: YAML would silently take the last."""
    import yaml  # on the control node only

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: cannot be read: {error}") from error
    loader = loader_class(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode) or not root.value:
            raise CatalogueError(f"{path}:1: a catalogue is a list of entries")
        found = []
        for node in root.value:
            where = f"{path}:{node.start_mark.line + 1}"
            if not isinstance(node, yaml.MappingNode):
                found.append((where, {}, ["an entry is a mapping of fields"]))
                continue
            keys = [str(key.value) for key, _value in node.value]
            doubled = sorted({key for key in keys if keys.count(key) > 1})
            found.append((where, loader.construct_document(node), [f"field {key!r} is there twice" for key in doubled]))
        return found
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise CatalogueError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()


# What the catalogue asks of a dependency, by the beginning of its ids.
# What is required of a service whose contract has a section `backup`
OF_BACKUPS = ("protect.", "backup.", "rehearsal.", "observe.weekly.backups")
REQUIREMENTS_OF = {"database": ("prep.db.", "db.", "observe.daily.connections"), "broker": ("prep.queue.",)}
# What only the service's repository can tell; a prebuilt archive comes without it.
OF_THE_REPOSITORY = {
    "release.code.ref": "deployed from a prebuilt archive, so no repository is asked what the ref is",
    "verify.unit.pass": "deployed from a prebuilt archive: its tests are run where it is built",
    "verify.unit.coverage": "deployed from a prebuilt archive: its tests are run where it is built",
    "verify.integration.pass": "deployed from a prebuilt archive: its tests are run where it is built",
    "sec.secrets.not_in_vcs": "deployed from a prebuilt archive, so there is no repository to search",
}


def not_applicable(service: Mapping, ids: Sequence[str]) -> dict[str, str]:
    """{id: reason} of what cannot apply to this service: what its contract says, and the requirements of dependencies it does not have,
    or of backups it does not ask for.

    service: the normalised contract; ids: the ids of the catalogues at hand.
    """
    found = {
        name: f"the service uses no {dependency}"
        for dependency, beginnings in REQUIREMENTS_OF.items() if dependency not in (service.get("dependencies") or {})
        for name in ids if name.startswith(beginnings)
    }  # fmt: skip
    if not service.get("dependencies") and "prep.deps.ready" in ids:
        found["prep.deps.ready"] = "the service depends on nothing"
    if "artefact" in service:
        found |= {name: reason for name, reason in OF_THE_REPOSITORY.items() if name in ids}
    if "backup" not in service:
        found |= {name: "the contract has no section `backup`" for name in ids if name.startswith(OF_BACKUPS)}
    for section, beginning in (("load", "load."), ("observation", "observe.")):
        if section not in service:
            found |= {name: f"the contract has no section `{section}`" for name in ids if name.startswith(beginning)}
    return {**found, **(service.get("not_applicable") or {})}


def not_applicable_in(service: Mapping, catalogues: Iterable[str | Path]) -> dict[str, str]:
    """`not_applicable` for the ids of these files. Raises CatalogueError or OSError."""
    return not_applicable(service, [entry.id for entry in load(catalogues)])
