"""`python -m auditor_node MARKET-FILE`: every public event as one line of JSON, until interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from auditor_node.watch import watch
from common.errors import VeilmartError
from common.market_file import MarketFile


def announce() -> None:
    """Tell whoever waits for it that from now on everything is seen."""
    sys.stderr.write("watching\n")
    sys.stderr.flush()


def listen(market_path: Path) -> int:
    """Print events; give the exit code."""
    try:
        for seen in watch(MarketFile.load(market_path), on_ready=announce):
            sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
            sys.stdout.flush()
    except VeilmartError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n" if error.hint else f"{error.message}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its one argument
        sys.exit("usage: python -m auditor_node MARKET-FILE")
    sys.exit(listen(Path(sys.argv[1])))
