"""Every bad migration of the corpus is caught, no good one is suspected; and which step catches how many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.rehearsal import manifest as manifests

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import CORPUS, Project, codes, entry, expected, make_venv, open_folder

BAD = sorted((CORPUS / "bad").glob("*.py"))
GOOD = sorted((CORPUS / "good").glob("*.py"))
# Rows of the live database: one table so large that nobody may wait for a scan of it.
LIVE = {"measurements": 500_000_000, "orders": 200_000}


@pytest.fixture(scope="module")
def manifest():
    """One rehearsal of the whole corpus: each migration is a branch of its own over the start."""
    with open_folder() as folder:
        project = Project(folder / "release", make_venv(folder / "venv"), folder / "scratch")
        project.take(CORPUS / "start.py", *BAD, *GOOD)
        return project.rehearse(current=["start"], rows=LIVE, controls=3)


pytestmark = pytest.mark.timeout(1200)


def test_the_corpus_is_large_enough():
    assert len(BAD) >= 30 and len(GOOD) >= 10
    assert any("CREATE INDEX CONCURRENTLY" in file.read_text() and "autocommit_block" in file.read_text() for file in GOOD)


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_a_bad_one_is_caught(manifest, file):
    one = entry(manifest, file.stem)
    assert expected(file) in codes(one), one["findings"]
    assert one["verdict"] != "LOSSLESS" or one["flags"] or codes(one) & set(manifests.verdict.SOURCE)


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_a_good_one_is_not_suspected(manifest, file):
    one = entry(manifest, file.stem)
    assert one["verdict"] == expected(file), one["findings"]
    assert one["flags"] == []
    assert manifests.of_revision(one, side_copies=False) == []
    assert one["recoverable"] is (True if one["verdict"] == "LOSSY_AFTER_WRITES" else None)


def test_the_control_was_caught(manifest):
    assert manifest["control"]["ok"] and len(manifest["control"]["walked"]) == 3


def test_how_many_each_step_catches(manifest, record_property):
    """No step could be left out: each is the only one to find some of them."""
    steps = (0, 3, 4, 5, 6, 8)
    by_step = {step: set() for step in range(12)}
    for file in BAD:
        for found in entry(manifest, file.stem)["findings"]:
            if found["code"] not in ("NOTE", "DISAPPEARS"):
                by_step[found["step"]].add(file.stem)
    counts = {step: len(names) for step, names in by_step.items() if names}
    alone = {
        step: len(by_step[step] - set().union(*(names for other, names in by_step.items() if other != step))) for step in steps
    }
    print(f"\nof {len(BAD)} bad migrations, caught by step: {counts}; by this step alone: {alone}; {len(GOOD)} good ones, 0 suspected")
    record_property("caught_by_step", str(counts))
    assert set().union(*by_step.values()) == {file.stem for file in BAD}
    assert counts[5] >= 20 and counts[8] >= 6 and counts[4] >= 6 and counts[3] >= 8 and counts[0] >= 5 and counts[6] >= 2
    assert all(number >= 1 for number in alone.values()), alone
