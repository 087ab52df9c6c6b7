"""`python -m bench orders|delivery|coins|size [--json]`: one envelope on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import coins, delivery, orders, size


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m bench", description="Measure, each figure beside its floor.")
    parser.add_argument("what", choices=["orders", "delivery", "coins", "size"])
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, nargs="+", default=orders.WINDOWS, help="orders under way")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer messages than usual")
    parser.add_argument("--large", type=int, default=1024, help="MiB of the large file")
    parser.add_argument("--profiles", type=Path, help="a folder for cProfile's figures of both nodes")
    options = parser.parse_args()
    if options.what == "orders":
        data = orders.measure(orders.Plan(options.rounds, options.windows, options.scale, options.profiles))
    elif options.what == "coins":
        data = coins.measure(coins.Plan(options.rounds, options.scale, options.profiles))
    elif options.what == "size":
        data = size.measure(size.Plan().scaled(options.scale))
    else:
        data = delivery.measure(delivery.Plan(options.rounds, large=options.large))
    sys.stdout.write(json.dumps({"ok": True, "data": data}) + "\n" if options.json else table(data))
    return 0


def table(data: dict[str, Any], indent: str = "") -> str:
    """Give nested figures as indented lines."""
    lines = []
    for name, value in data.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            lines.append(f"{indent}{name}\n{table(value, indent + '  ')}")
        elif isinstance(value, dict):
            inner = "  ".join(f"{key} {figure}" for key, figure in value.items())
            lines.append(f"{indent}{name:<12} {inner}\n")
        else:
            lines.append(f"{indent}{name:<12} {value}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
