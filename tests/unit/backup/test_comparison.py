"""What differs between two fingerprints: each difference named, equal ones silent, and noise of a dump is none."""

import copy

import pytest
from ansible.module_utils.greenroom.backup import comparison, schema
from ansible.module_utils.greenroom.backup.errors import BackupError

DUMP = """--
-- PostgreSQL database dump
--

\\restrict abc123

-- Dumped from database version 15.18
-- Dumped by pg_dump version 15.18

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: b; Type: TABLE; Schema: public; Owner: o
--

CREATE TABLE public.b (
    x integer
);

--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: o
--

CREATE FUNCTION public.f() RETURNS void
    LANGUAGE plpgsql
    AS $_$
SET work_mem = '1MB';
-- Dumped from nowhere
$_$;

--
-- Name: a; Type: TABLE; Schema: public; Owner: o
--

CREATE TABLE public.a (
    y integer
);

--
-- PostgreSQL database dump complete
--

\\unrestrict abc123
"""


def fingerprint(**changes):
    table = {"rows": 2, "bytes": 9, "sha256": "s", "persistence": "p", "columns": ["id"], "key": "id"}
    table["ranges"] = [[None, 10, 1, "r1"], [10, None, 1, "r2"]]
    found = {"tables": {"public.t": table}, "sequences": {"public.s": {"low": [5, True], "high": [7, True]}}, "large_objects": {"1": "x"}}
    found["catalog"] = {"roles": {"r": {"attributes": "login", "password": "d"}}, "sequences": {"public.s": {"increment": 1}}}
    return {**copy.deepcopy(found), "schema": DUMP, **changes}


def with_sequence(value, called=True):
    return fingerprint(sequences={"public.s": {"low": [value, called], "high": [value, called]}})


def test_noise_is_taken_out_and_the_body_of_a_function_stays():
    text = schema.normalise(DUMP)
    assert "restrict" not in text and "statement_timeout" not in text and "version 15" not in text and "complete" not in text
    assert "SET work_mem = '1MB';" in text and "-- Dumped from nowhere" in text
    assert text.index("public.a") < text.index("public.b"), "entries are sorted"
    newer = DUMP.replace("15.18", "15.19").replace("abc123", "zzz")
    assert schema.normalise(newer) == text
    assert list(schema.entries(text)) == [
        "a; Type: TABLE; Schema: public; Owner: o",
        "b; Type: TABLE; Schema: public; Owner: o",
        "f(); Type: FUNCTION; Schema: public; Owner: o",
    ]


def test_equal_ones_are_silent():
    assert comparison.differences(fingerprint(), fingerprint()) == []


@pytest.mark.parametrize(
    ("value", "called", "seen"), [(5, True, False), (6, True, False), (7, True, False), (4, True, True), (8, True, True), (6, False, True)]
)
def test_a_sequence_lies_between_its_two_readings(value, called, seen):
    assert bool(comparison.differences(fingerprint(), with_sequence(value, called))) is seen


def test_a_falling_sequence_and_one_that_began_anew():
    falling = fingerprint(sequences={"public.s": {"low": [7, True], "high": [5, True]}})
    falling["catalog"]["sequences"]["public.s"]["increment"] = -1
    assert comparison.differences(falling, with_sequence(6)) == ["sequences: public.s: increment is 1 instead of -1"]
    assert any(text.startswith("sequence public.s") for text in comparison.differences(falling, with_sequence(8)))
    wrapped = fingerprint(sequences={"public.s": {"low": [98, True], "high": [3, True]}})
    assert comparison.differences(wrapped, with_sequence(99)) == [] and comparison.differences(wrapped, with_sequence(50)) != []


def test_a_physical_copy_may_have_skipped_numbers_and_has_no_unlogged_rows():
    assert comparison.differences(fingerprint(), with_sequence(39), physical=True) == []
    assert comparison.differences(fingerprint(), with_sequence(4), physical=True) != []
    one, other = fingerprint(), fingerprint()
    for each, rows in ((one, 2), (other, 0)):
        each["tables"]["public.t"] |= {"persistence": "u", "rows": rows}
    assert comparison.differences(one, other, physical=True) == [] and comparison.differences(one, other) != []


def test_a_password_counts_only_where_both_could_see_it():
    hidden = fingerprint()
    hidden["catalog"]["roles"]["r"]["password"] = "unreadable"
    assert comparison.differences(hidden, fingerprint()) == [] and comparison.differences(fingerprint(), hidden) == []
    other = fingerprint()
    other["catalog"]["roles"]["r"]["password"] = "e"
    assert comparison.differences(fingerprint(), other) == ['roles: r: password is "e" instead of "d"']
    hidden["catalog"]["roles"]["r"]["attributes"] = ""
    assert comparison.differences(hidden, fingerprint()) == ['roles: r: attributes is "login" instead of ""']


def test_rows_tables_columns_and_places_are_named():
    other = fingerprint()
    other["tables"]["public.t"] |= {"sha256": "z", "ranges": [[None, 10, 1, "r1"], [10, None, 1, "rX"]]}
    assert comparison.differences(fingerprint(), other) == ["table public.t: same 2 rows, other values, where id is in [10, )"]
    other["tables"]["public.t"]["columns"] = ["id", "x"]
    assert "columns are id, x instead of id" in comparison.differences(fingerprint(), other)[0]
    other["tables"] = {"public.u": other["tables"]["public.t"]}
    assert comparison.differences(fingerprint(), other) == ["table public.t: is missing", "table public.u: is new"]


def test_schemas_are_compared_again_after_a_reload_if_somebody_can():
    other = fingerprint(schema=DUMP.replace("y integer", "y bigint"))
    assert comparison.differences(fingerprint(), other) == ["schema: a; Type: TABLE; Schema: public; Owner: o is defined differently"]
    assert comparison.differences(fingerprint(), other, reload=lambda dumped: schema.normalise(other["schema"])) == []
    assert comparison.differences(fingerprint(), other, reload=schema.normalise) != []


def test_long_lists_are_cut_and_say_so():
    many = fingerprint(large_objects={str(number): "x" for number in range(500)})
    found = comparison.differences(fingerprint(), many)
    assert len(found) == 201 and found[-1] == "and 299 more"


def test_nothing_compared_is_an_error():
    for one, other in ((fingerprint(tables={}), fingerprint()), (fingerprint(), {"tables": {}}), (fingerprint(), {})):
        with pytest.raises(BackupError, match="compares nothing"):
            comparison.differences(one, other)
