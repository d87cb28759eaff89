"""Problems of the inputs: what is wrong, where it stands (file and line), and what to write instead.

A problem never holds a secret's value. Its `path` starts with the variable (`service.processes[1].every`), a group of
the inventory (`groups.app`) or an option of the command line (`--limit`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

EXIT_REFUSED = 3  # inputs refused, nothing touched


@dataclass(frozen=True)
class Problem:
    """One problem: `path` as above, `message` what is wrong, `fix` what to write or do."""

    path: str
    message: str
    fix: str


def joined(parts: Iterable[str | int]) -> str:
    """`["service", "processes", 1, "every"]` as `service.processes[1].every`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def split(path: str) -> list[str | int]:
    """The parts of a path made by `joined`; keys with a dot in them (catalogue ids) must come last."""
    parts: list[str | int] = []
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        parts.append(int(index) if index else name)
    return parts


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` for the known word that looks most like `word`, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


class Places:
    """Finds the file and line of a variable in the inventory's group_vars/all and hosts file.

    Files that are encrypted as a whole have no lines to point at; then the file alone is named, by its name:
    the variables `vault_…` are expected in a file called vault or secrets.
    """

    def __init__(self, inventory_dir: str | Path | None) -> None:
        self.root = Path(inventory_dir) if inventory_dir else None
        self.nodes: dict[str, tuple[Path, object]] = {}  # top-level variable -> (file, (key node, value node))
        self.sealed: list[Path] = []
        self.hosts: Path | None = None
        if self.root is None or not self.root.is_dir():
            return
        group_vars = self.root / "group_vars"
        folder = group_vars / "all"
        files = [*folder.rglob("*.yml"), *folder.rglob("*.yaml"), group_vars / "all.yml", group_vars / "all.yaml"]
        for file in sorted(file for file in files if file.is_file()):
            self._read(file)
        self.hosts = next((file for name in ("hosts.yml", "hosts.yaml", "hosts") if (file := self.root / name).is_file()), None)

    def _read(self, file: Path) -> None:
        import yaml

        try:
            text = file.read_text(encoding="utf-8")
            tree = None if text.startswith("$ANSIBLE_VAULT") else yaml.compose(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return  # Ansible itself has refused such a file with its own message
        if tree is None or not isinstance(tree, yaml.MappingNode):
            self.sealed.append(file)
            return
        for key, value in tree.value:
            self.nodes[str(key.value)] = (file, (key, value))

    def find(self, path: str) -> tuple[str | None, int | None]:
        """File (relative to the project where it can be) and line of `path`, or of the nearest parent that exists."""
        if path.startswith("groups"):
            return self._shown(self.hosts), None
        parts = split(path)
        if not parts or parts[0] not in self.nodes:
            sealed = next((file for file in self.sealed if path.startswith("vault_") and re.search("vault|secret", file.name)), None)
            return self._shown(sealed), None
        file, (key, node) = self.nodes[parts[0]]
        line = key.start_mark.line + 1
        for index, part in enumerate(parts[1:], start=1):
            rest = ".".join(str(rest) for rest in parts[index:])
            key, node = self._child(node, part, rest)
            if node is None:
                break
            line = key.start_mark.line + 1
        return self._shown(file), line

    @staticmethod
    def _child(node: object, part: str | int, rest: str) -> tuple[object, object]:
        """The child of a YAML node named `part` (or `rest`, a last key with dots in it) with the node that marks its line."""
        import yaml

        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            return node.value[part], node.value[part]
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value in (part, rest):
                    return key, value
        return None, None

    def _shown(self, file: Path | None) -> str | None:
        if file is None or self.root is None:
            return None
        base = self.root.resolve().parent.parent
        resolved = file.resolve()
        return str(resolved.relative_to(base)) if self.root.resolve().parent.name == "inventories" else str(resolved)


def named(path: str, contract: object) -> str:
    """`service.env[3].value` as people look for it: `service.env[3] (LOG_LEVEL).value`, where the contract has such an entry."""
    found = re.match(r"service\.(\w+)\[(\d+)\]", path)
    if not (found and isinstance(contract, dict)):
        return path
    entries = contract.get(found[1])
    entry = entries[int(found[2])] if isinstance(entries, list) and int(found[2]) < len(entries) else None
    if not isinstance(entry, dict):
        return path
    name = next((entry[key] for key in ("key", "name", "id", "role") if isinstance(entry.get(key), str)), "")
    return f"{found[0]} ({name}){path[found.end():]}" if name else path


def as_dicts(problems: Iterable[Problem], places: Places | None = None, contract: object = None) -> list[dict]:
    """Problems as `{path, file, line, message, fix, text}`; `text` is the one line a person reads."""
    made = []
    for problem in problems:
        file, line = places.find(problem.path) if places else (None, None)
        where = f"{file}:{line}: " if line else f"{file}: " if file else ""
        text = f"{where}{named(problem.path, contract)}: {problem.message}. {problem.fix}"
        made.append({"path": problem.path, "file": file, "line": line, "message": problem.message, "fix": problem.fix, "text": text})
    return made


def report(problems: list[dict], what: str) -> str:
    """The message of a refusal: all problems at once, each on a line of its own."""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return "\n".join([f"{what}: {count}. Nothing was touched.", *(f"  - {problem['text']}" for problem in problems)])
