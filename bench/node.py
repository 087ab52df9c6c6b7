"""A broker or a merchant in a process of its own, run as the product runs it, but for TLS.

python -m bench.node broker HOME [PROFILE]     PROFILE: where to write cProfile's figures at the end
"""

from __future__ import annotations

import cProfile
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from bench.processes import tell
from broker_node.run import run_broker
from common.logs import log_to_stderr
from common.pools import Pools
from merchant_node.run import run_merchant

RUN: dict[str, Callable[..., None]] = {"broker": run_broker, "merchant": run_merchant}


def main(role: str, home: Path, profile: Path | None) -> None:
    """Run until SIGTERM."""
    log_to_stderr(logging.WARNING)
    stop = threading.Event()
    pools: list[Pools] = []

    def end(*_: object) -> None:
        stop.set()
        for each in pools:
            each.wake()

    signal.signal(signal.SIGTERM, end)
    profiler = cProfile.Profile() if profile is not None else None
    if profiler is not None:
        profiler.enable()
    RUN[role](home, stop, tell, tls=False, on_start=pools.append)
    if profiler is not None:
        profiler.disable()
        profiler.dump_stats(str(profile))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
