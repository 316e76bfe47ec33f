"""Plots as plain SVG: lines and bars, enough for the tables beside them. No library: these are a hundred lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from loadtest.figures import Plot

__all__ = ["svg"]

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 40, 56
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bf3989", "#0a7ea4")
"""Told apart also without colours by their order in the legend and by their dashes."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4", "4 2", "3 6")


class _Axis:
    """Values to pixels, with ticks at round numbers. A logarithmic one takes no value below or at zero."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool, zero: bool) -> None:
        self._start, self._end, self._log = start, end, log
        low, high = min(values), max(values)
        if log:
            self._low, self._high = math.floor(math.log10(low)), math.ceil(math.log10(high))
            self._high += self._high == self._low
            self.ticks = [10.0**power for power in range(self._low, self._high + 1)]
            return
        low = min(low, 0.0) if zero else low
        high = high if high > low else low + 1
        step = _round_step((high - low) / 5)
        self._low = math.floor(low / step) * step
        self._high = math.ceil(high / step - 1e-9) * step
        self.ticks = [self._low + step * n for n in range(round((self._high - self._low) / step) + 1)]

    def at(self, value: float) -> float:
        shown = math.log10(value) if self._log else value
        return self._start + (shown - self._low) / (self._high - self._low) * (self._end - self._start)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)


def _label(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def svg(plot: Plot) -> str:
    """The picture as a document of its own, on a white ground."""
    points = [point for series in plot.series.values() for point in series]
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    bars = plot.kind == "bars"
    y = _Axis([value for _, value in points], bottom, _TOP, log="y" in plot.log, zero=True)
    parts = [_text(_LEFT, 20, plot.title, size=14, weight="bold"), *_y_axis(y, plot.y)]
    if bars:
        slot = (right - _LEFT) / len(plot.groups)
        parts += [_text(_LEFT + slot * (n + 0.5), bottom + 18, name, "middle") for n, name in enumerate(plot.groups)]
        parts += _bars(plot, y, slot, bottom)
    else:
        x = _Axis([value for value, _ in points], _LEFT, right, log="x" in plot.log, zero="x" not in plot.log)
        for tick in x.ticks:
            parts.append(_text(x.at(tick), bottom + 18, _label(tick), "middle"))
        parts += _lines(plot, x, y)
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 12, plot.x, "middle"))
    parts += _legend(list(plot.series), bars=bars)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{escape(plot.title)}">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _y_axis(axis: _Axis, name: str) -> list[str]:
    parts = []
    for tick in axis.ticks:
        at = axis.at(tick)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#d0d7de"/>')
        parts.append(_text(_LEFT - 6, at + 4, _label(tick), "end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(name)}</text>'
    )
    return parts


def _lines(plot: Plot, x: _Axis, y: _Axis) -> list[str]:
    parts = []
    for number, series in enumerate(plot.series.values()):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in series)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        if len(series) <= 40:
            parts += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>' for a, b in series]
    return parts


def _bars(plot: Plot, y: _Axis, slot: float, bottom: float) -> list[str]:
    parts = []
    width = slot * 0.8 / len(plot.series)
    for number, series in enumerate(plot.series.values()):
        for group, value in series:
            left, top = _LEFT + slot * (group + 0.1) + width * number, y.at(value)
            colour = _COLOURS[number % len(_COLOURS)]
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{width * 0.94:.1f}" height="{bottom - top:.1f}" '
                f'fill="{colour}"/>'
            )
            if width >= 26:
                parts.append(_text(left + width * 0.47, top - 4, _label(float(f"{value:.3g}")), "middle", size=10))
    return parts


def _legend(names: Sequence[str], *, bars: bool) -> list[str]:
    parts, at = [], float(_LEFT)
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        if bars:
            parts.append(f'<rect x="{at:.0f}" y="27" width="18" height="7" fill="{colour}"/>')
        else:
            dash = _DASHES[number % len(_DASHES)]
            parts.append(f'<path d="M{at:.0f} 31h18" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(_text(at + 22, 35, name))
        at += 22 + len(name) * 6.2 + 16
    return parts
