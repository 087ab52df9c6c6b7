"""`python -m broker_node HOME`: the broker as a process of its own, as `veilmart broker run` does."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from broker_node.run import run_broker
from common.errors import VeilmartError
from common.logs import log_to_stderr


def announce(line: str) -> None:
    """Print the one ready line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(home: Path) -> int:
    """Run until SIGTERM or SIGINT; give the exit code."""
    log_to_stderr()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run_broker(home, stop, announce)
    except VeilmartError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n" if error.hint else f"{error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its one argument
        sys.exit("usage: python -m broker_node HOME")
    sys.exit(serve(Path(sys.argv[1])))
