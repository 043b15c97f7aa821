"""Small charts as SVG, for example for a data URI in Dagster's metadata: without scripts, fonts or libraries.

Screen readers get the title and the values: `role="img"` with `<title>` and `<desc>`. Grid and text are mid-grey and
the colours are readable on white and on black, since Dagster's UI is light or dark.
"""

from collections.abc import Mapping, Sequence
from html import escape

# Blue, orange, green of Okabe and Ito: distinguishable for the colour-blind, and by dashes without colours.
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
_DASHES = ("", "7 4", "2 3")
_GREY = "#808080"
_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 52, 34
_MOST_LABELS = 13


def line_chart(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Up to three lines over the same labels; None is a gap.

    Raises:
        ValueError: more lines than can be distinguished, or one that is not as long as the labels.
    """
    if len(series) > len(_COLOURS) or any(len(values) != len(labels) for values in series.values()):
        raise ValueError(f"a chart has at most {len(_COLOURS)} lines, each with {len(labels)} values")
    top = _round_up(max((v for values in series.values() for v in values if v is not None), default=0))
    drawn = []
    for index, (name, values) in enumerate(series.items()):
        colour, dash = _COLOURS[index], f' stroke-dasharray="{_DASHES[index]}"' if _DASHES[index] else ""
        path, pen = "", "M"
        for position, value in enumerate(values):
            if value is None:
                pen = "M"
                continue
            path += f"{pen}{_x(position, len(labels)):.1f} {_y(value, top):.1f}"
            # A single point is a line of length 0, which round caps make visible.
            path += "h0" if pen == "M" else ""
            pen = "L"
        style = 'fill="none" stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round"'
        drawn.append(f'<path d="{path}" {style} stroke="{colour}"{dash}/>')
        x = _LEFT + 190 * index
        drawn.append(f'<path d="M{x} 36h22" stroke-width="2.5" stroke="{colour}"{dash}/>')
        drawn.append(f'<text x="{x + 28}" y="40" fill="{_GREY}">{escape(name)}</text>')
    return _chart(title, labels, top, "".join(drawn), _described(labels, series))


def bar_chart(title: str, labels: Sequence[str], values: Sequence[float | None]) -> str:
    """One bar per label; no bar for None.

    Raises:
        ValueError: the numbers of values and labels differ.
    """
    if len(values) != len(labels):
        raise ValueError(f"{len(labels)} labels need as many values")
    top = _round_up(max((v for v in values if v is not None), default=0))
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1) * 0.7
    bars = "".join(
        f'<rect x="{_x(i, len(labels)) - width / 2:.1f}" y="{_y(value, top):.1f}" width="{width:.1f}" '
        f'height="{_y(0, top) - _y(value, top):.1f}" fill="{_COLOURS[0]}"/>'
        for i, value in enumerate(values)
        if value is not None
    )
    return _chart(title, labels, top, bars, _described(labels, {"": values}))


def _chart(title: str, labels: Sequence[str], top: float, drawn: str, description: str) -> str:
    grid = "".join(
        f'<path d="M{_LEFT} {_y(value, top):.1f}H{_WIDTH - _RIGHT}" stroke="{_GREY}" stroke-opacity=".35"/>'
        f'<text x="{_LEFT - 6}" y="{_y(value, top) + 4:.1f}" text-anchor="end" fill="{_GREY}">{value:g}</text>'
        for value in (0, top / 2, top)
    )
    step = -(-len(labels) // _MOST_LABELS) or 1
    below = "".join(
        f'<text x="{_x(i, len(labels)):.1f}" y="{_HEIGHT - 12}" text-anchor="middle" fill="{_GREY}">{escape(label)}'
        "</text>"
        for i, label in enumerate(labels)
        if i % step == 0
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" font-family="sans-serif" font-size="12">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        f'<text x="{_LEFT}" y="18" font-size="14" font-weight="bold" fill="{_GREY}">{escape(title)}</text>'
        f"{grid}{below}{drawn}</svg>"
    )


def _described(labels: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    parts = []
    for name, values in series.items():
        pairs = (f"{label}: {'no value' if v is None else f'{v:g}'}" for label, v in zip(labels, values, strict=True))
        parts.append(f"{name + '. ' if name else ''}{', '.join(pairs)}.")
    return " ".join(parts)


def _x(position: int, count: int) -> float:
    return _LEFT + (position + 0.5) * (_WIDTH - _LEFT - _RIGHT) / max(count, 1)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)


def _round_up(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8 x 10^n; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(f"{value:.0f}") - 1) if value >= 1 else 10.0 ** -len(f"{1 / value:.0f}")
    return next(power * factor for factor in (1, 2, 3, 4, 5, 6, 8, 10, 20) if power * factor >= value)
