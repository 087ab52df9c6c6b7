"""`docs/rest.md`: its curl examples, as they stand, against real processes; its tables, against the code."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from readme import ROOT, block
from real_market import CONTENT, RealMarket, call

from common.web.endpoints import Endpoint
from common.web.statuses import STATUSES
from customer_node.web.api.interface import endpoints as customers
from merchant_node.web.api.interface import endpoints as merchants
from mosquitto import free_ports
from veilmart.processes import NodeProcess, running

DOCUMENT = "docs/rest.md"
TEXT = (ROOT / DOCUMENT).read_text()
PORTS = {"customer": "8181", "merchant": "8182"}


@contextmanager
def served(market: RealMarket, profile: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Serve both sides; gives the ports by those of the document, the only change to what is written."""
    ports = [str(port) for port in free_ports(2)]
    words = {
        "customer": ["customer", "web", "--profile", str(profile)],
        "merchant": ["merchant", "web", "--home", str(market.home / "merchants/sports")],
    }
    processes = [
        NodeProcess(name, [*words[name], "--port", port], folder / f"{name}.log")
        for name, port in zip(words, ports, strict=True)
    ]
    with running(processes):
        yield dict(zip(PORTS.values(), ports, strict=True))


class Shell:
    """One shell after the other in one folder; what one sets the next one has, as in one terminal."""

    def __init__(self, market: RealMarket, profile: Path, folder: Path, ports: dict[str, str]) -> None:
        self.folder = folder
        self.ports = ports
        self.variables = {"VEILMART_HOME": str(market.home), "VEILMART_PROFILE": str(profile)}
        self.set: list[str] = []

    def run(self, name: str) -> list[Any]:
        """Run a block; gives what it printed, each line of JSON read."""
        lines = [
            re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{self.ports[found[1]]}", line)
            for line in block(name)
        ]
        script = "\n".join(["set -euo pipefail", *self.set, *(f"{line}; echo" for line in lines if line)])
        ran = call("bash", "-c", script, folder=self.folder, **self.variables)
        assert (ran.returncode, ran.stderr) == (0, ""), (ran.returncode, ran.stdout, ran.stderr)
        self.set += [line for line in lines if re.match(r"(\w+=http|json=)", line)]
        return [json.loads(line) for line in ran.stdout.splitlines() if line]


def test_the_examples_run_as_they_stand(real_market: RealMarket, tmp_path: Path) -> None:
    profile = real_market.customer(tmp_path / "rest-alice")
    (tmp_path / "plan.md").write_bytes(CONTENT)
    with served(real_market, profile, tmp_path) as ports:
        shell = Shell(real_market, profile, tmp_path, ports)
        told = shell.run("rest merchant")
        assert all(each["ok"] for each in told)
        assert [each["data"]["stock"] for each in told[3:6]] == [10, 8, 8]
        assert told[7]["data"] == {"added": 2, "known": 0, "left": 4}
        assert told[8]["data"]["products"][0]["price"] == 450

        told = shell.run("rest customer")
        assert all(each["ok"] for each in told)
        assert told[0]["data"]["account"] is False
        assert [each["data"]["valid"] for each in told if "valid" in each["data"]] == [True]
        assert told[-1]["data"]["visits"] == 0
        assert (tmp_path / "bought.md").read_bytes() == CONTENT
        for file in ("shop.curl", "books.curl"):
            assert (tmp_path / file).stat().st_mode & 0o777 == 0o600

        told = shell.run("rest sold")
        assert all(each["ok"] for each in told)
        refunds = next(each["data"] for each in told if "refunds" in each["data"])
        assert (refunds["left"], refunds["refunds"][0]["reason"]) == (0, "sold twice")
    verified = real_market.ran("receipt", "verify", tmp_path / "receipt.json", profile=profile).data
    assert verified["total"] == 450


# --- its tables ----------------------------------------------------------------------------------------


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_every_status_is_in_the_document() -> None:
    codes = defaultdict(list)
    for code, status in STATUSES.items():
        codes[status].append(f"`{code}`")
    expected = [f"| {status} | {', '.join(names)} |" for status, names in sorted(codes.items())]
    assert re.findall(r"^\| \d+ \|.*$", section("Answers"), re.MULTILINE) == expected, "\n".join(expected)


def described(endpoints: list[Endpoint]) -> list[str]:
    return [f"| `{each.method} {each.path}` | {each.described[0]} |" for each in endpoints]


class Anything:
    """Stands for a desk: nothing is asked of it."""

    def __getattr__(self, name: str) -> Any:
        return Anything()


@pytest.mark.parametrize(("title", "endpoints"), [("A customer's", customers), ("A merchant's", merchants)])
def test_every_address_is_in_the_document(title: str, endpoints: Any) -> None:
    part = section("Every address").partition(f"{title}:")[2].partition("\n\nA ")[0]
    rows = re.findall(r"^\| `[A-Z].*\|$", part, re.MULTILINE)
    expected = described(endpoints(Anything()))
    assert rows == expected, "\n" + "\n".join(expected)
