"""`compose.yaml`, by the README's exact lines, on a running Docker engine: `make test-compose`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from readme import ROOT, block

from veilmart.demo.goods import SPORTS

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

PROJECT = "veilmart-test"


def shell(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COMPOSE_FILE": str(ROOT / "compose.yaml"),
        "COMPOSE_PROJECT_NAME": PROJECT,
        **more,
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


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shell("docker compose down --volumes --timeout 5", tmp_path)


def test_a_customer_buys_by_the_lines_of_the_readme(folder: Path) -> None:
    ran = shell("\n".join(block("compose")), folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ridge = next(item for item in SPORTS if item.sku == "GPX-RIDGE")
    assert (folder / "bought" / ridge.file_name).read_bytes() == ridge.make()
    assert '"online"' in ran.stdout

    services = shell("docker compose ps --format '{{.Service}} {{.Health}}'", folder).stdout.split("\n")
    assert sorted(filter(None, services)) == [
        "broker healthy",
        "bus healthy",
        "keys healthy",
        "merchant healthy",
    ]
    user = shell("docker compose exec -T broker id -u", folder).stdout.strip()
    assert user != "0"
    sizes = shell(
        "docker image inspect -f '{{.Size}}' veilmart:local python:3.12-slim", folder
    ).stdout.split()
    assert int(sizes[0]) - int(sizes[1]) <= 200_000_000


def test_every_node_comes_back_after_a_restart(folder: Path) -> None:
    up = shell("docker compose up -d --build --wait", folder)
    assert up.returncode == 0, up.stderr
    again = shell("docker compose restart && docker compose up -d --wait", folder)
    assert again.returncode == 0, again.stderr
