"""Columns over days, as numbers that a template writes into <svg>: no style attribute, no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 240
LEFT: Final = 84
RIGHT: Final = 8
TOP: Final = 14
BOTTOM: Final = 28
MOST_TICKS: Final = 4
MOST_LABELS: Final = 8
GAP: Final = 0.25


@dataclass(frozen=True)
class Bar:
    """One column; `series` counts from 0, `said` is what it stands for."""

    x: float
    y: float
    width: float
    height: float
    series: int
    said: str


@dataclass(frozen=True)
class Mark:
    """A word at a place of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A plot, ready to be written. `label` says what it shows."""

    label: str
    bars: Sequence[Bar]
    ticks: Sequence[Mark]
    names: Sequence[Mark]


def columns(
    label: str, names: Sequence[str], series: Sequence[Sequence[int | None]], write: Callable[[int], str]
) -> Drawing:
    """Draw one column for each name and series; None draws nothing. `write` writes a value for a person."""
    highest = max((value or 0 for values in series for value in values), default=0)
    step = _step(highest)
    top = step * max(1, -(-highest // step))
    room, base = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM
    slot = room / max(1, len(names))
    width = slot * (1 - GAP) / max(1, len(series))
    bars = [
        Bar(
            round(LEFT + slot * (index + GAP / 2) + width * number, 2),
            round(base - (base - TOP) * value / top, 2),
            round(width, 2),
            round((base - TOP) * value / top, 2),
            number,
            f"{names[index]}: {write(value)}",
        )
        for number, values in enumerate(series)
        for index, value in enumerate(values)
        if value
    ]
    ticks = [Mark(round(base - (base - TOP) * at / top, 2), write(at)) for at in range(0, top + 1, step)]
    every = -(-len(names) // MOST_LABELS)
    marks = [Mark(round(LEFT + slot * (index + 0.5), 2), name) for index, name in enumerate(names)][::every]
    return Drawing(label, bars, ticks, marks)


def _step(highest: int) -> int:
    """Give a round step with which few ticks reach so high."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power * MOST_TICKS >= highest:
                return digit * power
        power *= 10
