"""Rates and latencies of one run, and medians over several."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

Figures = dict[str, float]


def figures(count: int, seconds: float, latencies_s: Sequence[float]) -> Figures:
    """Give the rate per second, and the median and 99th percentile of the latencies in ms."""
    ordered = sorted(latencies_s)
    return {
        "rate": round(count / seconds, 1),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000, 3),
    }


def medians(runs: Sequence[Figures]) -> Figures:
    """Give the median of each figure."""
    return {name: round(median(run[name] for run in runs), 3) for name in runs[0]}
