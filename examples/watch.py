#!/usr/bin/env python3
"""Watch an order until it needs nothing more, downloading what was bought. Safe to stop and to run again.

    python examples/watch.py                      # the newest order of the profile
    python examples/watch.py b62cf47d --to bought --timeout 600
    python examples/watch.py --json | jq .        # a line of JSON for each event

Each event is a line on stdout: when, what, and whose turn it is until when. Exit code: 0 the files are there,
4 the order came to nothing (the money is back), 27 nothing was heard in `--timeout` seconds: run it again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from common.money import format_amount
from customer_node import Market, VeilmartError
from customer_node.views import OrderEvent


def moment(milliseconds: int) -> str:
    """Write a time out."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def as_text(event: OrderEvent) -> str:
    """Say an event to a person."""
    words = [moment(event.at), event.kind]
    if event.progress is not None:
        words.append(f"{event.progress.bytes_done} of {event.progress.size} bytes")
    if event.error is not None:
        words.append(event.error.message)
    if event.order.refunded:
        words.append(f"{format_amount(event.order.refunded, event.order.currency)} given back")
    if event.hop is not None and event.deadline is not None:
        words.append(f"({event.hop} until {moment(event.deadline)})")
    return "  ".join(words)


def as_json(event: OrderEvent) -> str:
    """Say an event to a program."""
    fields = {
        "event": event.kind,
        "order": event.order.order_id,
        "at": event.at,
        "hop": event.hop,
        "deadline": event.deadline,
        "bytes_done": event.progress.bytes_done if event.progress else None,
        "size": event.progress.size if event.progress else None,
        "refunded": event.order.refunded,
        "error": event.error.code if event.error else None,
        "files": [str(path) for path in event.order.files],
    }
    return json.dumps(fields)


def watch(wanted: argparse.Namespace) -> int:
    """Follow the order that the command line names."""
    say = as_json if wanted.json else as_text
    state = ""
    with Market(wanted.profile) as market:
        order = market.order(wanted.order) if wanted.order else market.last_order()
        for event in order.events(wanted.to, timeout_s=wanted.timeout):
            print(say(event), flush=True)
            state = event.order.state
    return 0 if state == "complete" else 4


def main() -> int:
    """Read the command line and give the exit code."""
    parser = argparse.ArgumentParser(description="Watch an order until it needs nothing more.")
    parser.add_argument("order", nargs="?", help="its id or the beginning of it (default: the newest)")
    parser.add_argument("--profile", type=Path, default=Path(os.environ.get("VEILMART_PROFILE", "profile")))
    parser.add_argument("--to", type=Path, help="where files go")
    parser.add_argument("--timeout", type=float, help="seconds for which nothing may happen")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each event")
    try:
        return watch(parser.parse_args())
    except VeilmartError as error:
        print(f"{error.code}: {error.message} {error.hint}".rstrip(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
