"""`compose.yaml`, by the README's exact lines, on a running Docker engine: `make test-compose`.

The market is built and made once, a customer buys in it, and then it is restarted in every way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from readme import ROOT, block

from veilmart.demo.goods import SPORTS

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

PROJECT = "veilmart-test"
PROFILE = 'export VEILMART_PROFILE="$PWD/.state/alice"\n'
RIDGE = next(item for item in SPORTS if item.sku == "GPX-RIDGE")

RESTARTS = {
    "restart": "docker compose restart && docker compose up -d --wait",
    "down and up": "docker compose down && docker compose up -d --wait",
    "killed": "docker compose kill && docker compose up -d --wait",
}


@dataclass(frozen=True)
class Shopped:
    """A market in which the README's lines ran, in `folder`."""

    folder: Path
    printed: str

    def customer(self, words: str) -> Any:
        """Run a command of the customer's and give its data."""
        ran = shell(PROFILE + f"veilmart {words} --json", self.folder)
        assert ran.returncode == 0, (words, ran.stdout, ran.stderr)
        return json.loads(ran.stdout)["data"]

    def of_node(self, service: str, words: str) -> Any:
        """Run a command in a node's container and give its data."""
        ran = shell(f"docker compose exec -T {service} veilmart {words} --json", self.folder)
        assert ran.returncode == 0, (words, ran.stdout, ran.stderr)
        return json.loads(ran.stdout)["data"]


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COMPOSE_FILE": str(ROOT / "compose.yaml"),
        "COMPOSE_PROJECT_NAME": PROJECT,
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.fixture(scope="module")
def shopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shopped]:
    folder = tmp_path_factory.mktemp("compose")
    try:
        ran = shell("\n".join(block("compose")), folder)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        yield Shopped(folder, ran.stdout)
    finally:
        shell("docker compose down --volumes --timeout 5", folder)


def test_a_customer_buys_by_the_lines_of_the_readme(shopped: Shopped) -> None:
    assert (shopped.folder / "bought" / RIDGE.file_name).read_bytes() == RIDGE.make()
    assert '"online"' in shopped.printed
    events = [line for line in shopped.printed.splitlines() if line.startswith("veilmart/v1/audit/event/")]
    assert any('"veilmart.order.captured"' in event for event in events), events

    services = shell("docker compose ps --format '{{.Service}} {{.Health}}'", shopped.folder).stdout
    assert sorted(filter(None, services.split("\n"))) == [
        "broker healthy",
        "bus healthy",
        "keys healthy",
        "merchant healthy",
    ]
    user = shell("docker compose exec -T broker id -u", shopped.folder).stdout.strip()
    assert user != "0"
    sizes = shell("docker image inspect -f '{{.Size}}' veilmart:local python:3.12-slim", shopped.folder)
    ours, base = map(int, sizes.stdout.split())
    assert ours - base <= 200_000_000


@pytest.mark.parametrize("way", RESTARTS)
def test_a_market_that_was_restarted_is_the_same_market(shopped: Shopped, way: str) -> None:
    orders = shopped.customer("orders")
    assert orders
    balance = shopped.customer("balance")
    sales = shopped.of_node("merchant", "merchant orders --home /merchant")

    again = shell(RESTARTS[way], shopped.folder)
    assert again.returncode == 0, again.stderr

    shopped.customer("login alice --password-file password")
    assert shopped.customer("balance") == balance
    assert shopped.customer("orders") == orders
    assert shopped.of_node("merchant", "merchant orders --home /merchant") == sales
    # What was bought before is fetched once more: broker and merchant know the order still.
    order_id, kept = orders[0]["order_id"], shopped.folder / f"again {way}"
    (file,) = shopped.customer(f"download {order_id} --to '{kept}'")["files"]
    assert Path(file["path"]).parent == kept
    assert Path(file["path"]).read_bytes() == RIDGE.make()

    shopped.customer(f"buy sports {RIDGE.sku} --yes")
    shopped.customer(f"download --last --to 'next {way}'")
    assert (shopped.folder / f"next {way}" / RIDGE.file_name).read_bytes() == RIDGE.make()
    assert len(shopped.customer("orders")) == len(orders) + 1
    assert len(shopped.of_node("merchant", "merchant orders --home /merchant")) == len(sales) + 1
