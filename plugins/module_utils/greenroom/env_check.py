"""Judges a whole environment: the file's format, its rights, its variables; all problems at once, and the evidence of it."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import env_file, env_rules, records
from .env_file import Entry, Problem

IN_MEMORY = "(values)"  # what messages call values that are in no file yet
DECLARATIONS = "(declared)"


class Report(NamedTuple):
    """evidence: [record], problems: [Problem], keys: names of the variables found."""

    evidence: list
    problems: list
    keys: list


def check(
    declared: list,
    *,
    path: str | None = None,
    values: Mapping | None = None,
    template: str | None = None,
    forbidden: Iterable = (),
    allow_unknown: bool = False,
    owner: str = "root",
) -> Report:
    """Judge the env file `path`, or `values` that are to be written; see `env_rules.check` for the other arguments."""
    source = path or IN_MEMORY
    entries, problems = env_file.load(path) if path else _from_values(values or {})
    optional = {item.get("key") for item in declared if not item.get("required", True)}
    problems = [problem for problem in problems if problem.code != "empty_value" or problem.key not in optional]
    problems += [
        Problem(DECLARATIONS, None, None, "wrong_declaration", text, "correct the declaration")
        for text in env_rules.check_declarations(declared)
    ]
    samples: dict = {}
    if template:
        found, _ = env_file.load(template)  # its own problems are its author's
        samples = {entry.key: entry.value for entry in found}
        if not found:
            problems.append(
                Problem(template, None, None, "unreadable", "the template has no sample that can be read", "name the right file")
            )
    if not any(problem.code in ("unreadable", "wrong_declaration") for problem in problems):
        known = {problem.key for problem in problems}
        problems += [
            problem
            for problem in env_rules.check(entries, source, declared, template=samples, forbidden=forbidden, allow_unknown=allow_unknown)
            if problem.code != "missing_key" or problem.key not in known  # its line is there and is not understood
        ]
    evidence = []
    secrets = [item["key"] for item in declared if item.get("secret")]
    readable = not any(problem.code == "unreadable" and problem.file == path for problem in problems)
    if path:
        evidence.append(_file_record(path, problems, readable))
        if secrets or not declared:
            rights = mode_problems(path, owner) if readable else []
            problems += rights
            evidence.append(_record("sec.secrets.mode", f"mode 0600, owner {owner}", _rights(path), rights, source, readable))
    problems.sort(key=lambda problem: (problem.file, problem.line or 0))
    evidence += _records(declared, entries, secrets, problems, source, readable)
    return Report(evidence, problems, [entry.key for entry in entries])


def _from_values(values: Mapping) -> tuple[list, list]:
    """Entries of values in memory, as the writer would write them; one that cannot be written is a problem."""
    entries, problems = [], []
    for key, value in values.items():
        try:
            env_file.render({key: value})
            text = env_file.text_of(key, value)
        except ValueError as error:
            name = key if isinstance(key, str) and env_file.KEY.fullmatch(key) else None
            message = str(error).partition(": ")[2] if name else "a key is no valid name of a variable"
            problems.append(Problem(IN_MEMORY, None, name, "cannot_be_written", message, env_rules.FIXES["cannot_be_written"]))
            continue
        if not text:
            problems.append(Problem(IN_MEMORY, None, key, "empty_value", "the value is empty", env_file.FIXES["empty_value"]))
        entries.append(Entry(key, text, None))
    return entries, problems


def mode_problems(path: str, owner: str = "root") -> list:
    """Problems of a secret file's rights: mode 0600 and its owner (001 §2.3 L96)."""
    found = os.stat(path)
    problems = []
    mode = stat.S_IMODE(found.st_mode)
    if mode != 0o600:
        problems.append(Problem(path, None, None, "wrong_mode", f"the mode is {mode:04o}, not 0600", f"chmod 0600 {path}"))
    if _owner(found.st_uid) != owner:
        problems.append(
            Problem(path, None, None, "wrong_owner", f"the owner is {_owner(found.st_uid)}, not {owner}", f"chown {owner} {path}")
        )
    return problems


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _rights(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "not there"
    return f"mode {stat.S_IMODE(found.st_mode):04o}, owner {_owner(found.st_uid)}"


def _file_record(path: str, problems: list, readable: bool) -> dict:
    unreadable = [problem for problem in problems if problem.code == "unreadable" and problem.file == path]
    return _record("config.file", f"{path} exists", "exists" if readable else "cannot be read", unreadable, path, True)


def _records(declared: list, entries: list, secrets: list, problems: list, source: str, readable: bool) -> list:
    have = {entry.key for entry in entries}
    required = [item["key"] for item in declared if item.get("required", True) and "key" in item]
    words = {
        "config.required": (f"{len(required)} required variables, none empty", f"{len(have & set(required))} of {len(required)} present"),
        "config.format": (f"{len(have)} variables of the right form", "{} problems of form"),
        "config.no_examples": (f"no sample among {len(have)} values", "{} samples"),
        "config.secret.strength": (f"{len(secrets)} strong secrets", "{} weak secrets"),
    }
    evidence = []
    for name, codes in env_rules.GROUPS.items():
        wrong = [problem for problem in problems if problem.code in codes]
        expected, observed = words[name]
        if name == "config.secret.strength" and not secrets:
            reason = "no secret is declared"
            evidence.append(records.record(name, records.NOT_APPLICABLE, expected, "no secret", reason=reason, detail={"target": source}))
            continue
        evidence.append(_record(name, expected, observed.format(len(wrong)), wrong, source, readable))
    evidence.append(_record("config.validated", "no problem at all", f"{len(problems)} problems", problems, source, True))
    return evidence


def _record(name: str, expected: str, observed: str, wrong: list, source: str, readable: bool) -> dict:
    detail = {"target": source, "problems": [f"{problem.line or ''}:{problem.key or ''}:{problem.code}" for problem in wrong][:50]}
    if not readable:
        return records.record(name, records.NO_EVIDENCE, expected, "not checked", reason=f"{source} cannot be read", detail=detail)
    status = records.FAIL if wrong else records.PASS
    return records.record(name, status, expected, observed, reason="; ".join(map(str, wrong)) or None, detail=detail)
