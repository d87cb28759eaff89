"""What a revision's source says about itself; values and literals for seeding; predictions of locks."""

from __future__ import annotations

import textwrap

import pytest
from ansible.module_utils.greenroom.rehearsal import locks, run, values
from ansible.module_utils.greenroom.rehearsal.adapters import Outcome, Revision
from ansible.module_utils.greenroom.rehearsal.catalog import Catalog, literals
from ansible.module_utils.greenroom.rehearsal.errors import RehearsalError
from ansible.module_utils.greenroom.rehearsal.static_gate import source_findings

GOOD = """
    import sqlalchemy as sa
    from alembic import op
    def upgrade():
        op.add_column("t", sa.Column("a", sa.Text()))
    def downgrade():
        op.drop_column("t", "a")
"""


def found(tmp_path, source: str, name: str = "a.py") -> list[str]:
    path = tmp_path / name
    path.write_text(textwrap.dedent(source))
    return [code for code, _line, _text in source_findings(Revision("a", (), path=str(path)))]


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (("", ""), []),
        (('op.drop_column("t", "a")', "pass"), ["DOWNGRADE_EMPTY"]),
        (('op.drop_column("t", "a")', '"""Nothing."""'), ["DOWNGRADE_EMPTY"]),
        (('op.drop_column("t", "a")', "raise NotImplementedError"), ["DOWNGRADE_RAISES"]),
        (("from alembic import op", "from alembic import op\n    from shop.settings import URL"), ["APP_IMPORT"]),
        (("from alembic import op", "from alembic import op\n    import shop"), ["APP_IMPORT"]),
        (("from alembic import op", "from alembic import op\n    op.execute('SELECT 1')"), ["MODULE_STATEMENTS"]),
        (('op.drop_column("t", "a")', 'op.execute("DROP TABLE t CASCADE")'), ["CASCADE"]),
        (('op.drop_column("t", "a")', 'op.execute("TRUNCATE t CASCADE")'), ["CASCADE"]),
        (('op.drop_column("t", "a")', 'op.execute("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES b ON DELETE CASCADE")'), []),
        (('op.drop_column("t", "a")', "try:\n            op.f()\n        except Exception:\n            pass"), ["SWALLOWS_ERRORS"]),
        (('op.drop_column("t", "a")', "try:\n            op.f()\n        except Exception:\n            raise"), []),
        (('op.drop_column("t", "a")', "with contextlib.suppress(Exception):\n            op.f()"), ["SWALLOWS_ERRORS"]),
        (
            ('op.drop_column("t", "a")', "with op.get_context().autocommit_block():\n            op.f()\n        op.g()"),
            ["AUTOCOMMIT_MIXED"],
        ),
        (('op.drop_column("t", "a")', "with op.get_context().autocommit_block():\n            op.f()"), []),
        (("def upgrade():", "def upgrade(:"), ["UPGRADE_FAILS"]),
    ],
)
def test_the_source(tmp_path, change, codes):
    assert found(tmp_path, GOOD.replace(*change)) == codes


def test_a_revision_in_sql(tmp_path):
    assert found(tmp_path, "DROP VIEW v CASCADE;", "a.sql") == ["CASCADE"]
    assert source_findings(Revision("a", (), path=None)) == []


def test_what_a_check_names():
    assert literals("CHECK ((kind = ANY (ARRAY['a''b'::text, 'c'::text])))") == (["a'b", "c"], [])
    assert literals("CHECK (((rate >= 1.5) AND (rate < 10)))") == ([], ["1.5", "10"])


@pytest.mark.parametrize(
    ("variant", "k", "modifier", "value"),
    [
        ("edge", 5, (6 << 16 | 2) + 4, "9999.07"),
        ("full", 123, (6 << 16 | 2) + 4, "123.27"),
        ("full", 7, -1, "7.25"),
        ("longest", 12, (3 << 16 | 3) + 4, "0.017"),
    ],
)
def test_numbers_have_the_highest_scale(variant, k, modifier, value):
    assert values.numeric_value(variant, k, modifier) == value


def test_texts_keep_to_their_limit_and_differ():
    for variant in ("full", "longest", "foreign", "mixed", "edge"):
        assert len(values.text_value(variant, 12345, 8, False)) <= 8
    assert values.text_value("longest", 7, None, True) != values.text_value("longest", 8, None, True)
    assert len(values.text_value("longest", 7, 120, False)) == 120
    assert values.value_of(Catalog({}, {}), 99999, -1, "full", 1) is None


def entry(rows: int, seconds: float, wal: int, scanned: tuple = ()) -> dict:
    lock = {"t": {"mode": "AccessExclusiveLock", "seconds": seconds}}
    return {"rows": rows, "seconds": seconds, "wal_bytes": wal, "locks": lock, "scanned": list(scanned)}


def test_a_lock_grows_only_with_rows_that_are_read_or_written():
    def guess(small, large, live):
        (one,) = locks.predicted([small, large], Catalog({}, {}), live)["locks"]
        return one["predicted_s"]

    assert guess(entry(1000, 0.01, 5000), entry(3000, 0.03, 5000), {"t": 10**6}) == 0.03, "slower by chance, nothing was read"
    assert guess(entry(1000, 0.01, 5000, ["t"]), entry(3000, 0.03, 5000, ["t"]), {"t": 10**6}) == pytest.approx(10.0, 0.01)
    assert guess(entry(1000, 0.01, 100_000), entry(3000, 0.03, 300_000), {"t": 10**6}) == pytest.approx(10.0, 0.01)
    assert guess(entry(1000, 0.03, 0, ["t"]), entry(3000, 0.03, 0, ["t"]), {"t": 10**6}) == pytest.approx(10.0, 0.01), "an upper bound"
    assert guess(entry(1000, 0.01, 0, ["t"]), entry(3000, 0.03, 0, ["t"]), {}) is None


def test_which_revisions_are_pending():
    history = [Revision("a", ()), Revision("b", ("a",)), Revision("c", ("a",)), Revision("d", ("b", "c"))]

    def pending(current):
        return [one.revision for one in run.selected(history, current)]

    assert pending(None) == pending([]) == ["a", "b", "c", "d"]
    assert pending(["b"]) == ["c", "d"] and pending(["d"]) == []
    with pytest.raises(RehearsalError, match="does not contain"):
        pending(["z"])
    with pytest.raises(RehearsalError, match="has no revision"):
        run.selected([], None)


def test_a_tool_whose_statements_are_not_seen_may_touch_everything():
    assert locks.touched(Catalog({}, {}), Outcome(watched=False)) == []
