"""Records: statuses, what proves nothing, comparisons, the timer."""

import json

import pytest
from ansible.module_utils.greenroom import records as rec


def test_a_record_has_what_was_given_and_nothing_else():
    made = rec.record("prep.server.cpu", "pass", 2, 4, unit="cores", host="app1", detail={"samples": 3})
    assert made == {
        "id": "prep.server.cpu",
        "status": "pass",
        "expected": 2,
        "observed": 4,
        "unit": "cores",
        "host": "app1",
        "detail": {"samples": 3},
    }
    assert set(made) <= set(rec.KEYS)


@pytest.mark.parametrize("status", [status for status in rec.STATUSES if status != "pass"])
def test_every_status_but_pass_needs_a_reason(status):
    assert rec.record("a", status, reason="because")["reason"] == "because"
    for reason in (None, "", "  "):
        with pytest.raises(ValueError, match="needs a reason"):
            rec.record("a", status, reason=reason)


@pytest.mark.parametrize("status", ["PASS", "ok", "skipped", "", None, True])
def test_an_unknown_status_is_refused(status):
    with pytest.raises(ValueError, match="unknown status"):
        rec.record("a", status, 1, 1, reason="r")


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_a_record_needs_an_id(name):
    with pytest.raises(ValueError, match="needs an id"):
        rec.record(name, "pass", 1, 1)


@pytest.mark.parametrize(
    ("observed", "detail", "reason"),
    [
        (None, None, "without an observed value"),
        (float("nan"), None, "finite"),
        ({"p95": [1.0, float("inf")]}, None, "finite"),
        (12.5, {"mean": float("nan")}, "finite"),
        ("NaN", None, "finite"),
        (0.0, {"samples": 0}, "on 0 samples"),
        (0.0, {"samples": "many"}, "samples"),
    ],
)
def test_a_pass_that_proves_nothing_is_no_evidence(observed, detail, reason):
    made = rec.record("a", "pass", 1, observed, detail=detail)
    assert made["status"] == "no_evidence" and reason in made["reason"]
    json.dumps(made, allow_nan=False)


def test_detail_must_be_a_mapping():
    with pytest.raises(ValueError, match="detail"):
        rec.record("a", "pass", 1, 1, detail=[1])


def test_a_measurement_leaves_a_record_whatever_happens():
    made = []
    with rec.measured("good", expected=2, unit="cores", host="app1", into=made) as check:
        check.judge(True, 4)
    with rec.measured("bad", expected=2, into=made) as check:
        check.judge(False, 1)
    with rec.measured("broken", into=made) as check:
        check.observed = "half"
        raise OSError("disk gone")
    with rec.measured("forgotten", into=made):
        pass
    with rec.measured("nan", into=made) as check:
        check.judge(True, float("nan"))
    with rec.measured("truthy", into=made) as check:
        check.judge("yes", 1)
    assert [item["status"] for item in made] == ["pass", "fail", "error", "no_evidence", "no_evidence", "error"]
    assert made[1]["reason"] == "expected 2, observed 1" and made[2]["reason"] == "OSError: disk gone"
    assert all(item["duration_ms"] >= 0 and item["started"].endswith("Z") for item in made)
    assert check.record is made[-1]


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt), rec.measured("a"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("how", "expected", "observed", "met"),
    [
        ("equal", "healthy", "healthy", True),
        ("equal", "healthy", "unhealthy", False),
        ("equal", 1, "1", False),
        ("equal", True, 1, False),
        ("equal", [1, {"a": True}], [1, {"a": True}], True),
        ("equal", [1, {"a": True}], [1, {"a": 1}], False),
        ("equal", [1], [1, 2], False),
        ("at_least", 2, 2, True),
        ("at_least", 2, 1.99, False),
        ("at_most", 100, 100.0, True),
        ("at_most", 100, 101, False),
        ("contains", "a", ["a", "b"], True),
        ("contains", ["a", "c"], ["a", "b"], False),
        ("contains", "b", {"b": 1}, True),
        ("contains", ["x", "y"], "yx", True),
        ("matches", r"v\d+", "v12", True),
        ("matches", r"v\d+", "v12 dirty", False),
        ("in", ["debian", "ubuntu"], "debian", True),
        ("in", ["debian"], "deb", False),
        ("in", [1], True, False),
    ],
)
def test_compare(how, expected, observed, met):
    assert rec.compare(how, expected, observed) is met


@pytest.mark.parametrize(
    ("how", "expected", "observed"),
    [
        ("at_least", 2, "4"),
        ("at_least", "3.11", 3.9),
        ("at_most", 1, float("nan")),
        ("at_most", 1, None),
        ("at_least", 1, True),
        ("contains", "a", 5),
        ("contains", "", "text"),
        ("contains", [], ["a"]),
        ("in", "debian", "deb"),
    ],
)
def test_what_cannot_be_compared_is_an_error_not_a_verdict(how, expected, observed):
    with pytest.raises(TypeError):
        rec.compare(how, expected, observed)


def test_an_unknown_comparison_is_refused():
    with pytest.raises(ValueError, match="unknown comparison"):
        rec.compare("about", 1, 1)


def test_plain_makes_json_of_anything():
    assert rec.plain({1: {"b", "a"}, "x": (float("nan"), float("-inf")), "y": b"\xff"}) == {
        "1": ["a", "b"],
        "x": ["NaN", "-Infinity"],
        "y": "\\xff",
    }
