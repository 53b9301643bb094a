"""A curve of shares as a small SVG, by hand: a drawing of a few lines needs no library, and stays the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 50, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's: told apart by everybody, on light and on dark."""


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float, float, float]]
    """Where, the share there, and its lower and upper bound."""
    dashed: bool = False
    """And without bounds."""


def drawn(title: str, lines: Sequence[Line]) -> str:
    """The lines over one axis, shares from 0 to 100 %."""
    ticks = sorted({point[0] for line in lines for point in line.points})

    def across(value: float) -> float:
        return LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (WIDTH - LEFT - RIGHT)

    def up(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def parts() -> Iterator[str]:
        yield f'<text x="{LEFT}" y="25" font-size="15">{title}</text>'
        for share in (0, 0.25, 0.5, 0.75, 0.9, 1):
            yield f'<path d="M{LEFT} {up(share):.1f}H{WIDTH - RIGHT}" stroke="#888" stroke-width="0.5"/>'
            yield f'<text x="{LEFT - 8}" y="{up(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for tick in ticks:
            yield f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick:g}</text>'
        for place, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
            path = "L".join(f"{across(at):.1f} {up(share):.1f}" for at, share, _, _ in line.points)
            dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
            yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
            if not line.dashed:
                bars = "".join(f"M{across(at):.1f} {up(low):.1f}V{up(high):.1f}" for at, _, low, high in line.points)
                yield f'<path d="{bars}" stroke="{colour}" stroke-width="1.5"/>'
            yield f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 20 * place + 5}" fill="{colour}">{line.name}</text>'

    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#888">'
    return "\n".join([head, *parts(), "</svg>\n"])
