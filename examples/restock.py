#!/usr/bin/env python3
"""Restock a merchant's products by rules: a bot that works beside the running node.

    python examples/restock.py rules.toml --merchant sports            # once, from cron for instance
    python examples/restock.py rules.toml --merchant sports --every 60 # until it is stopped

A rule says from how many on a product is low, and what happens then:

    [PLAN-10K]
    low = 5
    to = 50             # so many are on sale again

    [PRO]
    low = 10
    keys = "pro.txt"    # licence keys: those in the file that are new are added

It works with the command's `--json`, so it runs wherever `veilmart merchant` does. Each product that was low
is a line on stdout. Exit code: 0 nothing is low any more, 3 a rule names what is not on sale, 4 something is
still low (a rule without `to` and `keys`, or no new keys), and that of a command that failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

STILL_LOW = 4


class CommandError(Exception):
    """A command failed. Its exit code is the bot's."""

    def __init__(self, error: dict[str, Any], code: int) -> None:
        super().__init__(f"{error['code']}: {error['message']} {error['hint']}".rstrip())
        self.code = code


class Shop:
    """A merchant's products, by way of the command."""

    def __init__(self, merchant: str | None) -> None:
        self.which = ["--merchant", merchant] if merchant else []

    def call(self, *words: str) -> Any:
        """Run `veilmart merchant product ...`; gives its data."""
        command = ["veilmart", "merchant", "product", *words, *self.which, "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        envelope = json.loads(ran.stdout)
        if not envelope["ok"]:
            raise CommandError(envelope["error"], ran.returncode)
        return envelope["data"]

    def stock(self) -> dict[str, int | None]:
        """Tell how many of each product are left, None where it is unlimited."""
        return {product["sku"]: product["stock"] for product in self.call("list")}

    def restock(self, sku: str, left: int, rule: dict[str, Any], folder: Path) -> int:
        """Do what a rule says; gives how many there are then."""
        if "keys" in rule:
            left = self.call("keys", "add", sku, str(folder / rule["keys"]))["left"]
        elif "to" in rule:
            left = rule["to"]
            self.call("edit", sku, "--stock", str(left))
        return left


def look(shop: Shop, rules: dict[str, dict[str, Any]], folder: Path, *, dry_run: bool) -> int:
    """Look at every rule once; gives the exit code."""
    stock = shop.stock()
    result = 0
    for sku, rule in rules.items():
        if sku not in stock:
            raise CommandError({"code": "not_found", "message": f"{sku} is not on sale.", "hint": ""}, 3)
        left = stock[sku]
        if left is None or left > rule["low"]:
            continue
        now = left if dry_run else shop.restock(sku, left, rule, folder)
        print(f"{sku}: {left} left, now {now}", flush=True)
        if now <= rule["low"]:
            result = STILL_LOW
    return result


def main() -> int:
    """Read the command line and give the exit code."""
    parser = argparse.ArgumentParser(description="Restock a merchant's products by rules.")
    parser.add_argument("rules", type=Path, help="a TOML file: a table for each SKU, low, and to or keys")
    parser.add_argument("--merchant", help="which one, where the home has several")
    parser.add_argument("--every", type=float, help="look again after so many seconds, until stopped")
    parser.add_argument("--dry-run", action="store_true", help="only say what is low")
    wanted = parser.parse_args()
    try:
        rules = tomllib.loads(wanted.rules.read_text())
        while True:
            result = look(Shop(wanted.merchant), rules, wanted.rules.parent, dry_run=wanted.dry_run)
            if wanted.every is None:
                return result
            time.sleep(wanted.every)
    except CommandError as error:
        print(error, file=sys.stderr)
        return error.code
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        print(f"usage: {wanted.rules}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
