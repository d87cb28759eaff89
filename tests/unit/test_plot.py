"""Plots are well-formed, escaped, honest about holes, and carry everything with them."""

import xml.etree.ElementTree as ElementTree

from ansible.module_utils.greenroom import load_report, plot


def drawn(**change):
    made = {"title": "a <b> & c", "unit": "ms", "x_unit": "s", "series": [{"name": "<x>", "points": [[0, 1], [1, None], [2, 3], [3, 4]]}]}
    text = plot.svg(made | change)
    ElementTree.fromstring(text)  # well-formed
    return text


def test_plots_are_escaped_and_holes_stay_holes():
    text = drawn(limit=5)
    assert "<b>" not in text and "<x>" not in text and "&lt;x&gt;" in text
    assert text.count("<polyline") == 1 and text.count("<circle") == 1 and 'class="limit"' in text
    assert "nothing was measured" in drawn(series=[{"name": "x", "points": [[0, None]]}])


def test_axes_end_at_round_numbers():
    assert [plot.nice_top(value) for value in (0, 0.7, 1, 3, 99, 100, 1101)] == [1.0, 1.0, 1.0, 5.0, 100, 100, 2000]


def test_long_series_are_thinned_and_keep_their_peaks():
    points = load_report.thinned([[at, 999 if at == 1234 else 1] for at in range(3600)])
    assert len(points) <= load_report.POINTS and [1234, 999] in points
    assert load_report.thinned([]) == []


def test_a_page_carries_everything_with_it():
    text = plot.page("t <", "s &", [["<i>", 1]], [{"title": "p", "series": []}], ["h"])
    assert "<i>" not in text and "&lt;i&gt;" in text and "<script" not in text and "src=" not in text
