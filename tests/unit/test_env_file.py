"""Env files: what is written is what systemd reads, and what a person could misread is refused by file, line and key."""

import ctypes
import glob
import random
import string

import pytest
from ansible.module_utils.greenroom import env_file
from hypothesis import given, settings
from hypothesis import strategies as st

NASTY = {
    "SPACES": "  two  words  ",
    "QUOTES": 'it\'s "quoted"',
    "DOLLAR": "$HOME ${PATH} $$ $(id)",
    "HASH": "#start a #middle ;x",
    "EQUALS": "a=b==c",
    "BACKSLASH": '\\ \\\\ \\n \\$ \\" end\\',
    "BACKTICK": "`id`",
    "UNICODE": "Grüße 飞书 🚀 \u00a0",
    "TAB": "a\tb",
    "PERCENT": "100% %h %%",
    "URL": "postgresql://u:p%40ss@db:5432/x?sslmode=verify-full&a=b",
    "PLAIN": "simple-value_1.0",
    "JSON": '{"a": [1, "b"], "c": null}',
}


@pytest.fixture(scope="session")
def systemd_reads(tmp_path_factory):
    """systemd's own reader of env files, out of its shared library: bytes -> [key=value bytes], None where it refuses."""
    libraries = glob.glob("/usr/lib/*/systemd/libsystemd-shared-*.so") + glob.glob("/lib/systemd/libsystemd-shared-*.so")
    assert libraries, "systemd's library is not on this machine; apt-get install systemd"
    load = ctypes.CDLL(libraries[0]).load_env_file
    path = tmp_path_factory.mktemp("systemd") / "file.env"

    def read(data):
        path.write_bytes(data)
        found = ctypes.POINTER(ctypes.c_char_p)()
        if load(None, bytes(path), ctypes.byref(found)) < 0:
            return None
        values, index = [], 0
        while found and found[index] is not None:
            values.append(found[index])
            index += 1
        return values

    return read


def as_pairs(values):
    return [f"{key}={value}".encode() for key, value in values.items()]


def test_systemd_reads_back_every_nasty_value_byte_for_byte(systemd_reads):
    assert systemd_reads(env_file.render(NASTY, header="made by\na test\\").encode()) == as_pairs(NASTY)


def test_our_parser_reads_back_what_the_writer_wrote():
    entries, problems = env_file.parse(env_file.render(NASTY).encode(), "f")
    assert problems == []
    assert {entry.key: entry.value for entry in entries} == NASTY


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cn"), blacklist_characters="\x7f"), min_size=1, max_size=60)


@settings(max_examples=400, deadline=None)
@given(value=TEXT)
def test_any_value_survives_systemd_and_the_parser(systemd_reads, value):
    data = env_file.render({"FIRST": "1", "KEY": value, "LAST": "2"}).encode()
    assert systemd_reads(data) == as_pairs({"FIRST": "1", "KEY": value, "LAST": "2"})
    assert [entry.value for entry in env_file.parse(data, "f")[0]] == ["1", value, "2"]


LINE = st.text(st.sampled_from(list("AB=\"'\\ #;$`ab\té")), max_size=14)


@settings(max_examples=1500, deadline=None)
@given(lines=st.lists(LINE, max_size=4))
def test_what_the_parser_accepts_without_complaint_systemd_reads_the_same(systemd_reads, lines):
    data = ("\n".join(lines) + "\n").encode()
    entries, problems = env_file.parse(data, "f")
    if not problems:
        assert systemd_reads(data) == [f"{entry.key}={entry.value}".encode() for entry in entries]


@pytest.mark.parametrize("value", ["two\nlines", "cr\rhere", "nul\0", "bell\x07", "\ud800", "\ufffe", None, ["x"], {"a": 1}])
def test_what_the_format_cannot_carry_is_refused_by_key_without_its_value(value):
    with pytest.raises(ValueError, match="SECRET_KEY") as error:
        env_file.render({"SECRET_KEY": value})
    assert not isinstance(value, str) or value not in str(error.value)


@pytest.mark.parametrize("key", ["", "1ST", "A B", "A-B", "export A", "Ä", "A="])
def test_bad_keys_are_not_written(key):
    with pytest.raises(ValueError, match="no valid key"):
        env_file.render({key: "x"})


def test_numbers_and_truth_values_are_written_as_words():
    assert env_file.render({"A": 5, "B": True, "C": 0.5, "D": False}) == "A=5\nB=true\nC=0.5\nD=false\n"


SENTINEL = "S3ntinelV4lue"
BAD = [
    (b"KEY " + SENTINEL.encode(), 1, None, "missing_equals"),
    (b"A=1\nexport KEY=" + SENTINEL.encode(), 2, None, "invalid_key"),
    (b"1KEY=" + SENTINEL.encode(), 1, None, "invalid_key"),
    (b"KEY=1\n\n# c\nKEY=" + SENTINEL.encode(), 4, "KEY", "duplicate_key"),
    (b"KEY=" + SENTINEL.encode() + b"\r\nB=1", 1, "KEY", "crlf"),
    (b"\xef\xbb\xbfKEY=" + SENTINEL.encode(), 1, None, "bom"),
    (b'KEY="' + SENTINEL.encode(), 1, "KEY", "unterminated_quote"),
    (b"KEY='" + SENTINEL.encode(), 1, "KEY", "unterminated_quote"),
    (b'KEY="' + SENTINEL.encode() + b'\\"', 1, "KEY", "unterminated_quote"),
    (b'KEY="' + SENTINEL.encode() + b"\\", 1, "KEY", "unterminated_quote"),
    (b'KEY="a" ' + SENTINEL.encode(), 1, "KEY", "bad_quoting"),
    (b"KEY='a'" + SENTINEL.encode(), 1, "KEY", "bad_quoting"),
    (b"KEY=it's" + SENTINEL.encode(), 1, "KEY", "bad_quoting"),
    (b"KEY=" + SENTINEL.encode() + b" # comment", 1, "KEY", "bad_quoting"),
    (b"KEY=a\\b" + SENTINEL.encode(), 1, "KEY", "bad_quoting"),
    (b"KEY=" + SENTINEL.encode() + b"\\\nB=1", 1, "KEY", "continuation"),
    (b"# comment \\\nKEY=" + SENTINEL.encode(), 1, None, "continuation"),
    (b"KEY=", 1, "KEY", "empty_value"),
    (b'KEY=""', 1, "KEY", "empty_value"),
    (b"KEY = " + SENTINEL.encode(), 1, "KEY", "spaces"),
    (b"KEY=" + SENTINEL.encode() + b" ", 1, "KEY", "spaces"),
    (b"KEY=   ", 1, "KEY", "spaces"),
    (b"KEY=\xff" + SENTINEL.encode(), 1, "KEY", "not_utf8"),
    (b"KEY=\x07" + SENTINEL.encode(), 1, "KEY", "control_character"),
]


@pytest.mark.parametrize(("data", "line", "key", "code"), BAD)
def test_each_kind_of_bad_line_is_named(data, line, key, code):
    _, problems = env_file.parse(data, "app.env")
    assert (line, key, code) in [(problem.line, problem.key, problem.code) for problem in problems]
    text = "\n".join(map(str, problems))
    assert f"app.env:{line}" in text
    assert SENTINEL not in text


def test_two_hundred_generated_bad_files_are_each_refused_at_their_line_and_leak_nothing():
    chance = random.Random(20261120)
    kinds = {
        "missing_equals": lambda key, value: f"{key} {value}".encode(),
        "duplicate_key": lambda key, value: f"{key}={value}\n{key}={value}".encode(),
        "empty_value": lambda key, value: f"{key}=".encode(),
        "crlf": lambda key, value: f"{key}={value}\r".encode(),
        "unterminated_quote": lambda key, value: f'{key}="{value}'.encode(),
        "bad_quoting": lambda key, value: f"{key}={value}'s".encode(),
        "not_utf8": lambda key, value: f"{key}={value}".encode() + b"\xff\xfe",
        "spaces": lambda key, value: f"{key}= {value}".encode(),
        "control_character": lambda key, value: f"{key}={value}\x1b[0m".encode(),
        "continuation": lambda key, value: f"{key}={value}\\".encode(),
    }
    for number in range(200):
        code = list(kinds)[number % len(kinds)]
        before = [f"GOOD_{i}=v{i}".encode() for i in range(chance.randrange(6))]
        after = [f"LATER_{i}=v{i}".encode() for i in range(chance.randrange(1, 6))]
        key = "KEY_" + "".join(chance.choices(string.ascii_uppercase, k=5))
        value = SENTINEL + "".join(chance.choices(string.ascii_letters + string.digits, k=chance.randrange(20)))
        data = b"\n".join([*before, kinds[code](key, value), *after]) + b"\n"
        _, problems = env_file.parse(data, f"file{number}.env")
        line = len(before) + (2 if code == "duplicate_key" else 1)
        found = [(problem.line, problem.key) for problem in problems if problem.code == code]
        assert found == [(line, None if code == "missing_equals" else key)], (code, problems)
        text = "\n".join(map(str, problems))
        assert f"file{number}.env:{line}" in text
        assert SENTINEL not in text


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    entries, problems = env_file.load(str(tmp_path / "none.env"))
    assert entries == []
    assert [problem.code for problem in problems] == ["unreadable"]
