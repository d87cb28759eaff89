"""Env files: the one parser and writer of systemd's EnvironmentFile format (systemd.exec(5)).

The writer's output is read back by systemd byte for byte; the parser accepts only what systemd, and a person, read the
same way, and names everything else by file, line and key (001 §2.3). Values never appear in a message: a file of the
runbooks' way, `export $(cat file | xargs)`, loses spaces and keys after an apostrophe, and shows them in the process list.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=~-]+")  # needs no quotes
_ESCAPED = '"\\`$'  # what a backslash protects inside double quotes
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")  # a tab is data; \n and \r are dealt with before


class Entry(NamedTuple):
    """One variable: its key, its value as the process will see it, and its line (from 1)."""

    key: str
    value: str
    line: int


class Problem(NamedTuple):
    """What is wrong, where, and what to do. `line` and `key` are None where there is none. Never holds a value."""

    file: str
    line: int | None
    key: str | None
    code: str
    message: str
    fix: str

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.key) if part is not None)
        return f"{where}: {self.message}; {self.fix}"


FIXES = {
    "unreadable": "create the file, readable by root",
    "bom": "save the file as UTF-8 without a byte order mark",
    "crlf": "save the file with Unix line ends (LF)",
    "not_utf8": "save the file as UTF-8",
    "control_character": "remove it, or encode the value (base64)",
    "missing_equals": "write KEY=value, or # before a comment",
    "invalid_key": "use letters, digits and _, not a digit first, and no `export`",
    "duplicate_key": "keep one of the two lines",
    "spaces": "remove it, or put the value in double quotes",
    "unterminated_quote": "close the quote on the same line",
    "bad_quoting": 'put the whole value in double quotes, with \\ before " \\ ` and $',
    "continuation": "remove the backslash at the end of the line: systemd would join the next line to it",
    "empty_value": "set a value, or delete the line",
}


def parse(data: bytes, name: str) -> tuple[list, list]:
    """The variables of an env file's bytes, and everything that is wrong with it: ([Entry], [Problem]).

    `name` is what messages call the file. Lines that cannot be understood give no entry.
    """
    entries: list = []
    problems: list = []
    first_line: dict = {}

    def problem(line, key, code, message):
        problems.append(Problem(name, line, key, code, message, FIXES[code]))

    if data.startswith(b"\xef\xbb\xbf"):
        problem(1, None, "bom", "the file begins with a byte order mark, which would become part of the first key")
        data = data[3:]
    for number, raw in enumerate(data.split(b"\n"), 1):
        if raw.endswith(b"\r"):
            problem(number, _key_of(raw), "crlf", "the line ends with CR LF, as on Windows")
            raw = raw.rstrip(b"\r")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            problem(number, _key_of(raw), "not_utf8", f"byte {error.start + 1} of the line is not UTF-8")
            continue
        if not line.strip(" \t"):
            continue
        if line.lstrip(" \t")[0] in "#;":
            if line.endswith("\\"):
                problem(number, None, "continuation", "a comment that ends with a backslash swallows the next line")
            continue
        if _CONTROL.search(line):
            problem(number, _key_of(raw), "control_character", "the line holds a control character")
            continue
        key, sign, value = line.partition("=")
        if not sign:
            # Not shown: the line could be the rest of a value that was broken in two.
            problem(number, None, "missing_equals", "the line has no =")
            continue
        if not KEY.fullmatch(key):
            if KEY.fullmatch(key.strip(" \t")):
                problem(number, key.strip(), "spaces", "there is white space before or after the key")
            else:
                problem(number, None, "invalid_key", "what stands before the = is no valid key")
            continue
        if key in first_line:
            problem(number, key, "duplicate_key", f"the key is set twice, the first time on line {first_line[key]}")
        first_line.setdefault(key, number)
        code, result = _read_value(value)
        if code:
            problem(number, key, code, result)
            continue
        if not result:
            problem(number, key, "empty_value", "the value is empty")
        entries.append(Entry(key, result, number))
    return entries, problems


def _key_of(raw: bytes) -> str | None:
    """The key of a line that is otherwise not understood, if it is a proper one."""
    key = raw.partition(b"=")[0].decode("ascii", "replace")
    return key if b"=" in raw and KEY.fullmatch(key) else None


def _read_value(text: str) -> tuple[str | None, str]:
    """(None, value) of what stands after the `=`, or (code, message)."""
    if text.strip(" \t") == "":
        return ("spaces", "there is white space after the =") if text else (None, "")
    if text != text.strip(" \t"):
        return "spaces", "there is white space before or after the value"
    if text[0] == "'":
        end = text.find("'", 1)
        if end < 0:
            return "unterminated_quote", "the quote ' is not closed"
        return (None, text[1:end]) if end == len(text) - 1 else ("bad_quoting", "something stands after the closing quote")
    if text[0] == '"':
        return _read_double_quoted(text)
    if "\\" in text:
        return (
            ("continuation", "the line ends with a backslash")
            if text.endswith("\\")
            else ("bad_quoting", "a backslash stands outside quotes")
        )
    if "'" in text or '"' in text:
        return "bad_quoting", "a quote stands inside a value that is not quoted"
    if re.search(r"[ \t][#;]", text):
        return "bad_quoting", "a # after white space looks like a comment, and is part of the value"
    return None, text


def _read_double_quoted(text: str) -> tuple[str | None, str]:
    value, position = [], 1
    while position < len(text):
        char = text[position]
        if char == '"':
            return (None, "".join(value)) if position == len(text) - 1 else ("bad_quoting", "something stands after the closing quote")
        if char == "\\" and position + 1 < len(text):
            position += 1
            # Before any other character the backslash stays, as in a shell.
            value.append(text[position] if text[position] in _ESCAPED else "\\" + text[position])
        elif char == "\\":
            return "unterminated_quote", 'the quote " is not closed'
        else:
            value.append(char)
        position += 1
    return "unterminated_quote", 'the quote " is not closed'


def load(path: str) -> tuple[list, list]:
    """`parse` of a file; one that cannot be read is a Problem as well."""
    try:
        with open(path, "rb") as file:
            return parse(file.read(), path)
    except OSError as error:
        return [], [
            Problem(
                path, None, None, "unreadable", f"the file cannot be read: {(error.strerror or str(error)).lower()}", FIXES["unreadable"]
            )
        ]


def text_of(key: str, value: object) -> str:
    """A value as the process will see it: text as it is, true and false in words, numbers in digits.

    Raises ValueError, naming the key and never the value, for anything an env file cannot carry.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{key}: an environment variable is text, a number or a truth value, not {type(value).__name__}")
    if "\n" in value or "\r" in value:
        raise ValueError(f"{key}: the value holds a line break; encode it (base64) or keep it in a file of its own")
    if _CONTROL.search(value):
        raise ValueError(f"{key}: the value holds a control character; encode it (base64)")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{key}: the value is no Unicode text") from error
    if any(0xFDD0 <= ord(char) <= 0xFDEF or ord(char) & 0xFFFE == 0xFFFE for char in value):
        raise ValueError(f"{key}: the value holds a character that Unicode reserves; systemd refuses the whole file for it")
    return value


def render(values: Mapping, header: str | None = None) -> str:
    """The text of an env file with these variables, in the order given; `header` becomes comment lines.

    Raises ValueError, naming the key, for a key or value that the format cannot carry (see `text_of`).
    """
    lines = [f"# {line}".rstrip().rstrip("\\") for line in (header or "").splitlines()]
    for key, value in values.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no valid key of an environment variable; {FIXES['invalid_key']}")
        text = text_of(key, value)
        if not _PLAIN.fullmatch(text):
            text = '"' + "".join("\\" + char if char in _ESCAPED else char for char in text) + '"'
        lines.append(f"{key}={text}")
    return "\n".join(lines) + "\n" if lines else ""


def rendered_sha256(values: Mapping, header: str | None = None) -> str:
    """SHA-256 (64 hex digits) of the file that `render` makes. Raises ValueError as it does."""
    return hashlib.sha256(render(values, header).encode()).hexdigest()
