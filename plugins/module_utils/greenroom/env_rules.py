"""What an environment must satisfy beyond its file format: keys, types, no sample values, strong secrets, nothing of production.

Rules of 001 §2.3 and 000 L34-38; the runbooks give no figure for a secret's strength, so the figures are this file's.
No value is ever part of a message.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from .env_file import Entry, Problem
from .markers import holds

SECRET_LENGTH = 16  # characters, unless a declaration says otherwise
SECRET_BITS = 80  # of estimated entropy, for secrets of fewer than three kinds of characters
HEX_LENGTH = 32  # hexadecimal digits that are enough
TYPES = ("string", "integer", "number", "boolean", "url", "enum", "email", "path")
DECLARATION = ("key", "type", "choices", "secret", "min_length", "pattern", "minimum", "maximum", "required", "value", "description")

# Which evidence a problem of this kind turns red; everything also turns config.validated red.
GROUPS = {
    "config.required": ("missing_key", "empty_value"),
    "config.format": (
        "bom", "crlf", "not_utf8", "control_character", "missing_equals", "invalid_key",
        "duplicate_key", "spaces", "unterminated_quote", "bad_quoting", "continuation", "unknown_key",
        "wrong_type", "wrong_choice", "wrong_pattern", "cannot_be_written",
    ),
    "config.no_examples": ("placeholder", "template_value"),
    "config.secret.strength": ("short_secret", "simple_secret"),
}  # fmt: skip

FIXES = {
    "missing_key": "add the key with its value",
    "unknown_key": "declare it in the service contract (service.env), or delete the line",
    "wrong_type": "correct the value, or the type in the service contract (service.env)",
    "wrong_choice": "correct the value",
    "wrong_pattern": "correct the value, or the pattern in the service contract (service.env)",
    "placeholder": "set the real value",
    "template_value": "set a value of this environment's own",
    "short_secret": "make a new one, for instance with `openssl rand -hex 32`",
    "simple_secret": "make a new one, for instance with `openssl rand -hex 32`",
    "forbidden": "use this environment's own; nothing of production belongs here",
    "cannot_be_written": "correct the value",
}

_EDGE, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_PLACEHOLDER = re.compile(
    rf"change[-_ ]?(?:me|this|it)|replace[-_ ]?(?:me|this|with)|placeholder|{_EDGE}your[-_ ]"
    rf"|{_EDGE}(?:todo|tbd|fixme|insert[-_ ]here|xxx+){_END}"
    r"|<[A-Za-z][A-Za-z _-]{2,}>|\{\{.*\}\}|\$\{\w+\}|\*{4,}|…|^\.{3,}$|(?<![\w-])example\.(?:com|org|net)(?![\w.-])",
    re.IGNORECASE,
)
# Fine as a word of an address, never as a secret.
_SAMPLE_SECRET = re.compile(
    rf"{_EDGE}(?:example|sample|dummy|test|demo|foo|bar|default|guest|none|null|n/a){_END}|^(?:pass|pw|pwd|root|user)$", re.IGNORECASE
)
_COMMON_WORDS = re.compile(
    r"pass(?:word|wd|phrase)?|secret|admin|letmein|welcome|qwert[yz]\w?|asdfg\w?|token|apikey|login|master|dragon|monkey|iloveyou|hunter\d?",
    re.IGNORECASE,
)


def check_declarations(declared: Iterable) -> list:
    """What is wrong with the declarations themselves, as texts."""
    problems = []
    for number, item in enumerate(declared, 1):
        if not isinstance(item, Mapping) or not isinstance(item.get("key"), str):
            problems.append(f"declared item {number} has no key")
            continue
        unknown = sorted(set(item) - set(DECLARATION))
        if unknown:
            problems.append(f"declared {item['key']}: unknown {', '.join(unknown)}; known are {', '.join(DECLARATION)}")
        if item.get("type", "string") not in TYPES:
            problems.append(f"declared {item['key']}: type must be one of {', '.join(TYPES)}")
        if item.get("type") == "enum" and not item.get("choices"):
            problems.append(f"declared {item['key']}: an enum needs choices")
        if item.get("pattern"):
            try:
                re.compile(item["pattern"])
            except re.error as error:
                problems.append(f"declared {item['key']}: pattern is no regular expression: {error}")
    return problems


def check(
    entries: list, file: str, declared: list, *, template: Mapping | None = None, forbidden: Iterable = (), allow_unknown: bool = False
) -> list:
    """Problems of `entries` ([Entry]) against `declared` (dicts, see DECLARATION); `file` is what messages call their source.

    template: key -> sample value of a template file. forbidden: dicts {marker, why}.
    """
    rules = {item["key"]: item for item in declared}
    values = {entry.key: entry for entry in entries}
    problems = [
        _problem(file, None, key, "missing_key", "the key is missing")
        for key, rule in rules.items()
        if key not in values and rule.get("required", True)
    ]
    for entry in values.values():
        rule = rules.get(entry.key)
        if rule is None and not allow_unknown:
            problems.append(_problem(file, entry.line, entry.key, "unknown_key", "the key is declared nowhere"))
        if entry.value:
            problems += _judge(entry, file, rule or {}, (template or {}).get(entry.key), forbidden)
    return problems


def _problem(file: str, line: int | None, key: str, code: str, message: str) -> Problem:
    return Problem(file, line, key, code, message, FIXES[code])


def _judge(entry: Entry, file: str, rule: Mapping, sample: str | None, forbidden: Iterable) -> list:
    def problem(code, message):
        return _problem(file, entry.line, entry.key, code, message)

    problems = []
    kind, secret, value = rule.get("type", "string"), bool(rule.get("secret")), entry.value
    wrong = wrong_type(value, kind)
    if wrong:
        problems.append(problem("wrong_type", f"must be {wrong}"))
    choices = [_text(choice) for choice in rule.get("choices") or []]
    if not wrong and kind in ("integer", "number"):
        if rule.get("minimum") is not None and float(value) < float(rule["minimum"]):
            problems.append(problem("wrong_choice", f"must be {rule['minimum']} or more"))
        if rule.get("maximum") is not None and float(value) > float(rule["maximum"]):
            problems.append(problem("wrong_choice", f"must be {rule['maximum']} or less"))
    if choices and value not in choices:
        problems.append(problem("wrong_choice", f"must be one of {', '.join(choices)}"))
    if rule.get("pattern") and not re.fullmatch(rule["pattern"], value):
        problems.append(problem("wrong_pattern", f"does not match the pattern {rule['pattern']}"))
    if is_placeholder(value, secret, kind):
        problems.append(problem("placeholder", "the value is a placeholder or a sample"))
    elif (
        sample
        and value == sample
        and kind in ("string", "url", "email", "path")
        and value not in choices
        and value != _text(rule.get("value"))
    ):
        problems.append(problem("template_value", "the value is the template's sample"))
    if secret:
        weakness = secret_weakness(entry.key, value, kind, rule.get("min_length"))
        if weakness:
            problems.append(problem(*weakness))
    elif rule.get("min_length") and len(value) < int(rule["min_length"]):
        problems.append(problem("wrong_pattern", f"is {len(value)} characters long, {rule['min_length']} are wanted"))
    for item in forbidden:
        if holds(value, item["marker"]):
            problems.append(problem("forbidden", f"the value names {item['why']}"))
            break
    return problems


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def wrong_type(value: str, kind: str) -> str | None:
    """What `value` should be, if it is not of this kind; None if it is."""
    if kind == "integer" and not re.fullmatch(r"[+-]?\d+", value):
        return "a whole number"
    if kind == "number" and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return "a number"
    if kind == "boolean" and value.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        return "true or false"
    if kind == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", value):
        return "a mail address"
    if kind == "path" and (not value.startswith("/") or "\0" in value or ".." in value.split("/")):
        return "an absolute path without .."
    if kind == "url":
        try:
            parts = urlsplit(value)
            local = parts.scheme not in ("http", "https", "ws", "wss", "amqp", "amqps") and parts.path.startswith("/")  # sqlite:///file
            good = bool(re.fullmatch(r"[a-z][a-z0-9+.-]*", parts.scheme) and (parts.hostname or local) and parts.port != 0)
        except ValueError:
            good = False
        if not good or re.search(r"\s", value) or "://" not in value:
            return "an address with scheme, host and, where it has one, a valid port"
    return None


def is_placeholder(value: str, secret: bool, kind: str = "string") -> bool:
    """Does the value look like one that somebody was to replace?"""
    if _PLACEHOLDER.search(value):
        return True
    inner = password_of(value) if kind == "url" else value
    return bool(secret and inner and (_SAMPLE_SECRET.search(inner) or inner.lower() in ("password", "secret", "admin", "changeit")))


def password_of(url: str) -> str | None:
    """The decoded password of an address, None if it has none or is no address."""
    try:
        found = urlsplit(url).password
    except ValueError:
        return None
    return unquote(found) if found else None


def secret_weakness(key: str, value: str, kind: str = "string", min_length: int | None = None) -> tuple[str, str] | None:
    """(code, message) if a secret is too short or too simple, None if it will do.

    Of an address its password is judged; one without a password is no secret.
    """
    if kind == "url":
        value = password_of(value) or ""
        if not value:
            return None
    wanted = int(min_length or SECRET_LENGTH)
    if len(value) < wanted:
        return "short_secret", f"the secret is {len(value)} characters long, {wanted} are wanted"
    if len(set(value)) < 6:
        return "simple_secret", f"the secret has only {len(set(value))} different characters"
    steps = Counter(ord(right) - ord(left) for left, right in zip(value, value[1:]))  # noqa: B905, RUF007 - hosts may have Python 3.9
    if (steps[1] + steps[-1] + steps[0]) / (len(value) - 1) > 0.6:
        return "simple_secret", "the secret is a sequence of neighbouring characters"
    if value in (value + value)[1:-1]:
        return "simple_secret", "the secret repeats itself"
    squeezed, name = (re.sub(r"[\W_]", "", text).lower() for text in (value, key))
    if name in squeezed and len(squeezed.replace(name, "")) < 12:
        return "simple_secret", "the secret is made from the name of its key"
    if len(re.sub(r"[\W\d_]", "", _COMMON_WORDS.sub("", value))) < 6 and _COMMON_WORDS.search(value):
        return "simple_secret", "the secret is made from a common word"
    kinds = sum(bool(re.search(pattern, value)) for pattern in (r"[a-z]", r"[A-Z]", r"\d", r"[^A-Za-z0-9]"))
    if re.fullmatch(r"[0-9a-fA-F]+", value) and len(value) >= HEX_LENGTH:
        return None
    if kinds < 3 and entropy_bits(value) < SECRET_BITS:
        return (
            "simple_secret",
            f"the secret has {kinds} kinds of characters and about {entropy_bits(value):.0f} bits of entropy; "
            f"3 kinds or {SECRET_BITS} bits are wanted",
        )
    return None


def entropy_bits(value: str) -> float:
    """Shannon's estimate from the characters' frequencies, times the length, in bits."""
    size = len(value)
    return -sum(count * math.log2(count / size) for count in Counter(value).values())
