"""Delivery against the floor: content through the whole chain, and one large file in constant memory."""

from __future__ import annotations

import hashlib
import random
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import conditions, customer, market, mosquitto, processes
from bench.processes import Worker, say
from common import config
from customer_node import pace

MIB = 1024 * config.KIB
PRICE = 100
BALANCE = 5000
CELL = config.CELL_CONTENT + 52
"""A sealed cell's length: what the floor carries."""
MEMORY_LIMIT_MB = 150.0


@dataclass(frozen=True)
class Plan:
    """How much is measured: MiB of the file for the rounds, and of the large one."""

    rounds: int = 7
    small: int = 64
    large: int = 1024


def measure(plan: Plan) -> dict[str, Any]:
    """Run floor and downloads in turn, then fetch the large file."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="veilmart-bench-")))
        (root / "bus").mkdir()
        bus = stack.enter_context(mosquitto.running(root / "bus"))
        homes = market.make(root, bus.ports)
        say("making files")
        digests = {
            sku: _put_on_sale(homes, root, sku, size)
            for sku, size in (("small", plan.small), ("large", plan.large))
        }
        market.open_account(homes, customer.NAME, customer.PASSWORD, BALANCE)
        floor = [stack.enter_context(worker) for worker in processes.floor(bus.ports[0])]
        nodes = [stack.enter_context(node) for node in processes.nodes(homes.broker, homes.merchant)]
        profile = (str(root / "profile"), str(homes.market))
        buyer = stack.enter_context(Worker("customer", "bench.customer", *profile))

        order = buyer.ask(do="buy", sku="small")
        runs = []
        for number in range(plan.rounds):
            below = _floor(floor[-1], plan.small)
            got = _download(buyer, order, root / f"got-{number}", digests["small"])
            if not got.intact:
                raise RuntimeError("the file came damaged")
            above = got.seconds
            runs.append((below, above))
            say(f"round {number + 1}: floor {below:.2f} s, delivery {above:.2f} s, ratio {below / above:.2f}")
        say("fetching the large file")
        order = buyer.ask(do="buy", sku="large")
        large = _download(buyer, order, root / "got-large", digests["large"])
        everyone: tuple[Worker | mosquitto.Bus, ...] = (*floor, *nodes, buyer, bus)
        peak = {process.name: process.peak_rss_mb for process in everyone}
    return _report(plan, runs, large, peak)


def _put_on_sale(homes: market.Homes, root: Path, sku: str, mib: int) -> bytes:
    """Make a file of pseudo-random blocks, no two alike, sell it, and give its digest."""
    digest, path = hashlib.sha256(), root / sku
    block = random.Random(mib).randbytes(MIB)  # noqa: S311 - content, not a secret
    with path.open("wb") as file:
        for number in range(mib):
            piece = number.to_bytes(8, "big") + block[8:]
            digest.update(piece)
            file.write(piece)
    market.put_on_sale(homes, path, PRICE, sku)
    path.unlink()
    return digest.digest()


def _floor(client: Worker, mib: int) -> float:
    cells = mib * MIB // config.CELL_CONTENT
    window = pace.LARGEST_WINDOW
    windows = config.Limits().cell_window // window
    answer = client.ask(do="fetch", cells=cells, window=window, windows=windows, size=CELL)
    return float(answer["seconds"])


@dataclass(frozen=True)
class Downloaded:
    """How long it took, and whether what came is what was put on sale."""

    seconds: float
    intact: bool


def _download(buyer: Worker, order: str, folder: Path, digest: bytes) -> Downloaded:
    answer = buyer.ask(do="download", order=order, folder=str(folder))
    path = Path(answer["path"])
    with path.open("rb") as file:
        intact = hashlib.file_digest(file, "sha256").digest() == digest
    path.unlink()
    return Downloaded(float(answer["seconds"]), intact)


def _report(
    plan: Plan, runs: list[tuple[float, float]], large: Downloaded, peak: dict[str, float]
) -> dict[str, Any]:
    megabytes = plan.small * MIB / 1e6
    floor = megabytes / median(below for below, _ in runs)
    chain = megabytes / median(above for _, above in runs)
    # Of each pair, which ran within a second or two: machines change faster than the rounds do.
    ratio = round(median(below / above for below, above in runs), 3)
    return {
        "floor": {"mb_per_s": round(floor, 1)},
        "delivery": {"mb_per_s": round(chain, 1), "ratio": ratio},
        "ratio": ratio,
        "large_file": {
            "mib": plan.large,
            "intact": large.intact,
            "seconds": round(large.seconds, 1),
            "mb_per_s": round(plan.large * MIB / 1e6 / large.seconds, 1),
            "within_memory_limit": max(peak.values()) <= MEMORY_LIMIT_MB,
        },
        "peak_rss_mb": peak,
        "conditions": conditions.describe(CELL),
    }
