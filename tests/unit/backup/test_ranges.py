"""The ranges of a table's key: they cover every key once, are few, and follow from the extremes alone."""

from ansible.module_utils.greenroom.backup import fingerprint
from hypothesis import given
from hypothesis import strategies as st

KEYS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(KEYS, min_size=2, max_size=20))
def test_every_key_is_in_exactly_one_range(keys):
    found = fingerprint.ranges(min(keys), max(keys))
    assert 1 <= len(found) <= fingerprint.RANGES and found[0][0] is None and found[-1][1] is None
    assert [part[1] for part in found[:-1]] == [part[0] for part in found[1:]]
    for key in keys:
        assert sum((low is None or low <= key) and (high is None or key < high) for low, high in found) == 1


def test_small_and_empty_tables_are_one_range():
    assert fingerprint.ranges(None, None) == [(None, None)]
    assert fingerprint.ranges(1, 1000) == [(None, None)]
    assert len(fingerprint.ranges(30, 450000)) == 4
