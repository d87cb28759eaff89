"""Plots as inline SVG, for pages that carry everything with them: lines over one axis, a limit, a legend. Pure functions.

A plot is data: {title, unit, x_unit, series: [{name, points: [[x, y or None], …]}, …], limit (optional)}.
A y that is None is a hole in the line: what was not measured is not drawn as a zero.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 250, 64, 14, 34, 34
COLORS = ("#2f6fb3", "#c2571a", "#2b8a57", "#8e4fa8", "#a8861d", "#4d7f8c", "#b2476a", "#6a6f76")
STYLE = (
    "svg.plot{display:block;width:100%;height:auto;font:13px system-ui,sans-serif}"
    "svg.plot text{fill:currentColor}svg.plot .tick{opacity:.65;font-size:11.5px}svg.plot .grid{stroke:currentColor;opacity:.15}"
    "svg.plot .limit{stroke:#b3261e;stroke-dasharray:5 4}"
)


def nice_top(value: float) -> float:
    """The next round number (1, 2, 2.5 or 5 times a power of ten) that is not below `value`."""
    if not value > 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.9999)


def number(value: float) -> str:
    """A figure on an axis: 1,200 or 0.05."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def runs(points: Sequence) -> list[list[tuple[float, float]]]:
    """The pieces of a line between its holes."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            found.append([])
        else:
            found[-1].append((x, y))
    return [piece for piece in found if piece]


def svg(plot: Mapping) -> str:
    """The plot as an `svg` element of class `plot`; every text in it is escaped."""
    pieces = [(number_, piece) for number_, one in enumerate(plot["series"]) for piece in runs(one["points"])]
    every = [point for _number, piece in pieces for point in piece]
    title = html.escape(f"{plot['title']}" + (f", {plot['unit']}" if plot.get("unit") else ""))
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    head += f'<text x="2" y="16" font-weight="650">{title}</text>'
    if not every:
        return f'{head}<text class="tick" x="{LEFT}" y="{HEIGHT / 2:g}">nothing was measured</text></svg>'
    limit = plot.get("limit")
    low, high = min(x for x, _y in every), max(x for x, _y in every)
    top = nice_top(max(max(y for _x, y in every), limit or 0))
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        return round(LEFT + (x - low) / ((high - low) or 1) * wide, 1)

    def down(y: float) -> float:
        return round(TOP + tall - max(0.0, min(y, top)) / top * tall, 1)

    parts = [head]
    for step in range(5):
        y, value = TOP + tall * (4 - step) / 4, top * step / 4
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{number(value)}</text>')
    for step in range(7):
        x = low + (high - low) * step / 6
        unit = html.escape(f" {plot['x_unit']}") if plot.get("x_unit") and step == 6 else ""
        anchor = "end" if step == 6 else "middle"
        parts.append(f'<text class="tick" x="{across(x)}" y="{HEIGHT - 10}" text-anchor="{anchor}">{number(round(x, 1))}{unit}</text>')
    if limit is not None:
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(limit)}" y2="{down(limit)}"/>')
    for which, piece in pieces:
        color = COLORS[which % len(COLORS)]
        line = " ".join(f"{across(x)},{down(y)}" for x, y in piece)
        if len(piece) == 1:
            parts.append(f'<circle cx="{across(piece[0][0])}" cy="{down(piece[0][1])}" r="2.5" fill="{color}"/>')
        else:
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.6" stroke-linejoin="round"/>')
    place = WIDTH - RIGHT
    legend = [(one["name"], COLORS[index % len(COLORS)]) for index, one in enumerate(plot["series"])]
    legend += [(f"limit {number(limit)}", "#b3261e")] if limit is not None else []
    for name, color in reversed(legend):
        parts.append(f'<text x="{place}" y="16" text-anchor="end">{html.escape(str(name))}</text>')
        place -= 8 * len(str(name)) + 6
        parts.append(f'<rect x="{place - 10}" y="7" width="10" height="10" rx="2" fill="{color}"/>')
        place -= 24
    return "".join(parts) + "</svg>"


def page(title: str, sentence: str, rows: Sequence[Sequence], plots: Sequence[Mapping], head: Sequence[str] = ()) -> str:
    """One self-contained HTML page: a title, a sentence, a table of `rows` (the first line is `head`), and plots."""

    def cells(row: Sequence, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"

    table = "".join(cells(row, "td") for row in rows)
    drawn = "".join(f"<figure>{svg(plot)}</figure>" for plot in plots)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:32px auto;padding:0 16px}"
        "table{border-collapse:collapse;margin:18px 0}td,th{text-align:left;padding:5px 18px 5px 0;border-bottom:1px solid #8884}"
        f"figure{{margin:26px 0}}{STYLE}</style></head><body><h1>{html.escape(title)}</h1><p>{html.escape(sentence)}</p>"
        f"<table>{cells(head, 'th') if head else ''}{table}</table>{drawn}</body></html>\n"
    )
