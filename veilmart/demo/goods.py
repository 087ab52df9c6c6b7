"""The goods of the demo's two shops: real files, made here and always the same.

The sports shop sells training plans (Markdown), routes (GPX 1.1) and photos (PNG); the archive sells
field recordings (WAV), four of them of 60 to 64 MiB.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Goods:
    """One product of the demo: how it is listed, and how its file is made."""

    sku: str
    title: str
    price: str
    category: str
    tags: tuple[str, ...]
    description: str
    file_name: str
    make: Callable[[], bytes]


# --- training plans ------------------------------------------------------------------------------------


def training_plan(title: str, weeks: int, first_km: float, growth: float, runs: int) -> bytes:
    """Write a plan: distances grow by `growth` a week, every fourth week is easier."""
    lines = [f"# {title}", "", f"{weeks} weeks, {runs} runs a week. Distances in kilometres.", ""]
    lines += ["| week | " + " | ".join(f"run {n + 1}" for n in range(runs)) + " | long run |"]
    lines += ["|---" * (runs + 2) + "|"]
    for week in range(1, weeks + 1):
        base = first_km * growth ** (week - 1) * (0.7 if week % 4 == 0 else 1.0)
        easy = [f"{base * (0.8 + 0.1 * n):.1f}" for n in range(runs)]
        lines.append(f"| {week} | " + " | ".join(easy) + f" | {base * 1.6:.1f} |")
    lines += ["", "Keep easy runs easy: you should be able to talk in whole sentences.", ""]
    return "\n".join(lines).encode()


# --- routes --------------------------------------------------------------------------------------------


def route(name: str, latitude: float, longitude: float, kilometres: float, climb: float) -> bytes:
    """Write a round tour as GPX 1.1: one point about every 50 metres, with elevation."""
    points = max(60, int(kilometres * 20))
    radius = kilometres / (2 * math.pi) / 111.2
    rows = []
    for n in range(points + 1):
        angle = 2 * math.pi * n / points
        wobble = 1 + 0.12 * math.sin(3 * angle) + 0.05 * math.sin(11 * angle)
        lat = latitude + radius * wobble * math.sin(angle)
        lon = longitude + radius * wobble * math.cos(angle) / math.cos(math.radians(latitude))
        height = 400 + climb / 2 * (1 - math.cos(angle)) + 8 * math.sin(17 * angle)
        rows.append(f'   <trkpt lat="{lat:.6f}" lon="{lon:.6f}"><ele>{height:.1f}</ele></trkpt>')
    body = "\n".join(rows)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<gpx version="1.1" creator="Veilmart demo" xmlns="http://www.topografix.com/GPX/1/1">\n'
        f" <trk><name>{name}</name>\n  <trkseg>\n{body}\n  </trkseg>\n </trk>\n</gpx>\n"
    ).encode()


# --- photos --------------------------------------------------------------------------------------------


def png(width: int, height: int, pixel: Callable[[int, int], tuple[int, int, int]]) -> bytes:
    """Write an 8-bit RGB PNG."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            rows += bytes(pixel(x, y))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + chunk(b"IEND", b"")
    )


def mountains(seed: int, width: int = 640, height: int = 400) -> bytes:
    """Paint ridges behind ridges under a coloured sky."""
    chance = random.Random(seed)  # noqa: S311 - a picture, always the same
    sky = [chance.randrange(90, 250) for _ in range(3)]
    ridges = []
    for layer in range(5):
        waves = [(chance.uniform(0.5, 5), chance.uniform(0, 7), chance.uniform(4, 26)) for _ in range(5)]
        base = height * (0.35 + 0.14 * layer)
        ridges.append(
            [
                base - sum(a * math.sin(f * 2 * math.pi * x / width + p) for f, p, a in waves)
                for x in range(width)
            ]
        )

    def pixel(x: int, y: int) -> tuple[int, int, int]:
        front = max((n for n in range(5) if y >= ridges[n][x]), default=-1)
        if front < 0:
            light = y / height
            red, green, blue = (int(c * (0.6 + 0.4 * light)) for c in sky)
            return red, green, blue
        shade = 0.75 - 0.15 * front
        red, green, blue = (int(c * shade * 0.8) for c in sky)
        return red, green, blue

    return png(width, height, pixel)


# --- recordings ----------------------------------------------------------------------------------------


def recording(seed: int, size: int) -> bytes:
    """Write `size` bytes of 16-bit stereo WAV: noise, as a brook's is."""
    data = size - 44
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        size - 8,
        b"WAVE",
        b"fmt ",
        16,
        1,
        2,
        48000,
        192000,
        4,
        16,
        b"data",
        data,
    )
    return header + random.Random(seed).randbytes(data)  # noqa: S311 - noise, always the same


def _photo(sku: str, title: str, price: str, seed: int, tag: str) -> Goods:
    return Goods(
        sku,
        title,
        price,
        "photos",
        ("photo", tag),
        f"{title}: a photo to print, 640 by 400 pixels.",
        f"{sku.lower()}.png",
        lambda: mountains(seed),
    )


def _route(
    sku: str, title: str, price: str, place: tuple[float, float], kilometres: float, climb: float
) -> Goods:
    return Goods(
        sku,
        title,
        price,
        "routes",
        ("gpx", "trail"),
        f"A round tour of {kilometres:g} km with {climb:g} m of ascent, as a GPX track.",
        f"{sku.lower()}.gpx",
        lambda: route(title, *place, kilometres, climb),
    )


def _plan(sku: str, title: str, price: str, weeks: int, first_km: float, runs: int) -> Goods:
    return Goods(
        sku,
        title,
        price,
        "plans",
        ("running", "plan"),
        f"A training plan over {weeks} weeks with {runs} easy runs and one long run a week.",
        f"{sku.lower()}.md",
        lambda: training_plan(title, weeks, first_km, 1.06, runs),
    )


SPORTS = (
    _plan("PLAN-10K", "Ten kilometres in eight weeks", "9.90", 8, 3.0, 3),
    _plan("PLAN-HALF", "Half marathon in twelve weeks", "9.90", 12, 5.0, 3),
    _plan("PLAN-FULL", "Marathon in eighteen weeks", "14.90", 18, 6.0, 4),
    _route("GPX-RIDGE", "Ridge in the morning", "4.50", (47.42, 11.10), 14.2, 860),
    _route("GPX-LAKES", "Three lakes round", "4.50", (47.58, 11.31), 22.5, 420),
    _route("GPX-GORGE", "Through the gorge", "4.50", (46.95, 10.88), 11.8, 610),
    _photo("PHOTO-DAWN", "Dawn over five ridges", "3.20", 5, "dawn"),
    _photo("PHOTO-DUSK", "Dusk over five ridges", "3.20", 11, "dusk"),
    _photo("PHOTO-FOG", "Fog in the valleys", "3.20", 23, "fog"),
)

ARCHIVE = tuple(
    Goods(
        f"WAV-{name.upper()}",
        title,
        "12.00",
        "recordings",
        ("wav", "field recording"),
        f"{title}: an uncompressed field recording of {mib} MiB, 48 kHz, stereo.",
        f"{name}.wav",
        lambda seed=seed, mib=mib: recording(seed, mib * MIB),  # type: ignore[misc] # bound early on purpose
    )
    for seed, (name, title, mib) in enumerate(
        (
            ("brook", "A brook under ice", 60),
            ("storm", "Storm behind the hut", 61),
            ("scree", "Rain on scree", 62),
            ("glacier", "Inside the glacier", 64),
        )
    )
)


def make_files(goods: tuple[Goods, ...], folder: Path) -> dict[str, Path]:
    """Write each file that is not there yet; gives SKU -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for item in goods:
        path = paths[item.sku] = folder / item.file_name
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(item.make())
            partial.replace(path)
    return paths
