"""What differs between two fingerprints, each difference in words that name the object. Nothing here talks to a server."""

from __future__ import annotations

import json
from collections.abc import Mapping

from . import schema
from .errors import BackupError


def differences(before: Mapping, after: Mapping, *, physical: bool = False, reload=None, most: int = 200) -> list[str]:
    """What differs between two fingerprints, one text each, naming the object; [] if they are equal.

    physical: `after` is a physical copy: unlogged tables are empty there, and a sequence may be ahead by what a server reserves for a
    crash. reload: a function from a schema dump to the normalised schema of a database made from it; it is asked when the two texts
    differ, because PostgreSQL writes some expressions differently after a first reload. Raises BackupError if a fingerprint has no table
    at all: nothing was compared.
    """
    if not before.get("tables") or not after.get("tables"):
        raise BackupError("a fingerprint without tables compares nothing. Was it taken from the right database?")
    found = _tables(before["tables"], after["tables"], physical)
    if "catalog" in before and "catalog" in after:
        found += _sequences(before, after, physical)
        found += [f"large object {text}" for text in _mappings(before["large_objects"], after["large_objects"])]
        for section in sorted({*before["catalog"], *after["catalog"]}):
            one, other = before["catalog"].get(section, {}), after["catalog"].get(section, {})
            found += [f"{section.replace('_', ' ')}: {text}" for text in _mappings(_known(one, other), _known(other, one))]
        found += _schemas(before["schema"], after["schema"], reload)
    elif ("catalog" in before) != ("catalog" in after):
        raise BackupError("one of the two fingerprints holds tables only; take both in full")
    if len(found) > most:
        found = [*found[:most], f"and {len(found) - most} more"]
    return found


def _known(one: Mapping, other: Mapping) -> dict:
    """Without passwords where one of the two sides could not see them."""

    def hidden(value: object) -> bool:
        return isinstance(value, Mapping) and value.get("password") == "unreadable"

    result = {}
    for name, value in one.items():
        if isinstance(value, Mapping) and "password" in value and (hidden(value) or hidden(other.get(name))):
            value = {key: inner for key, inner in value.items() if key != "password"}
        result[name] = value
    return result


def _tables(before: Mapping, after: Mapping, physical: bool) -> list[str]:
    found = []
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            found.append(f"table {name}: {'is new' if one is None else 'is missing'}")
            continue
        if physical and one["persistence"] == "u":
            continue
        if one["columns"] != other["columns"]:
            found.append(f"table {name}: columns are {', '.join(other['columns'])} instead of {', '.join(one['columns'])}")
        elif (one["rows"], one["sha256"]) != (other["rows"], other["sha256"]):
            text = (
                f"{other['rows']} rows instead of {one['rows']}"
                if one["rows"] != other["rows"]
                else f"same {one['rows']} rows, other values"
            )
            found.append(f"table {name}: {text}{_where(one, other)}")
    return found


def _where(one: Mapping, other: Mapping) -> str:
    key = one.get("key")
    if len(one["ranges"]) < 2 or [part[:2] for part in one["ranges"]] != [part[:2] for part in other["ranges"]]:
        return ""
    places = [
        f"[{'' if mine[0] is None else mine[0]}, {'' if mine[1] is None else mine[1]})"
        for mine, theirs in zip(one["ranges"], other["ranges"], strict=True)
        if mine[2:] != theirs[2:]
    ]
    return f", where {key} is in {', '.join(places[:5])}{' …' if len(places) > 5 else ''}"


def _sequences(before: Mapping, after: Mapping, physical: bool) -> list[str]:
    """A sequence read while others use it has a lowest and a highest value; a copy's value lies between them."""
    found = []
    definitions = before["catalog"].get("sequences", {})
    for name in sorted({*before["sequences"], *after["sequences"]}):
        one, other = before["sequences"].get(name), after["sequences"].get(name)
        if one is None or other is None:
            found.append(f"sequence {name}: {'is new' if one is None else 'is missing'}")
            continue
        sign = -1 if definitions.get(name, {}).get("increment", 1) < 0 else 1
        low, high, value = (sign * item[0] for item in (one["low"], one["high"], other["high"]))
        flags = {one["low"][1], one["high"][1]}
        wrapped = low > high
        inside = (value >= low or value <= high) if wrapped else low <= value <= high or (physical and value > high)
        if not inside or (other["high"][1] not in flags and not physical):
            wanted = one["low"][0] if one["low"] == one["high"] else f"{one['low'][0]} to {one['high'][0]}"
            state = "" if other["high"][1] in flags else f" ({'given out' if other['high'][1] else 'not given out yet'})"
            found.append(f"sequence {name}: is at {other['high'][0]}{state} instead of {wanted}")
    return found


def _mappings(one: Mapping, other: Mapping) -> list[str]:
    found = []
    for name in sorted({*one, *other}):
        if name not in other:
            found.append(f"{name} is missing (was {_short(one[name])})")
        elif name not in one:
            found.append(f"{name} is new ({_short(other[name])})")
        elif one[name] != other[name]:
            mine, theirs = one[name], other[name]
            if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
                fields = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
                texts = [f"{key} is {_short(theirs.get(key))} instead of {_short(mine.get(key))}" for key in fields]
                found.append(f"{name}: {'; '.join(texts)}")
            else:
                found.append(f"{name} is {_short(theirs)} instead of {_short(mine)}")
    return found


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "…"


def _schemas(before: str, after: str, reload) -> list[str]:
    one, other = schema.normalise(before), schema.normalise(after)
    if one != other and reload is not None:
        one = reload(before)
    if one == other:
        return []
    mine, theirs = schema.entries(one), schema.entries(other)
    found = []
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            what = "is new" if name not in mine else "is missing" if name not in theirs else "is defined differently"
            found.append(f"schema: {name} {what}")
    return found or ["schema: the two texts differ outside any named object"]
