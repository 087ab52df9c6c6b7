"""What a script author starts from, run as a script author runs it, against real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from readme import ROOT
from real_market import BUNDLE, CONTENT, PASSWORD, PRICE, SKU, RealMarket, call


def python(market: RealMarket, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`examples/buy.py`, as the account that is called like the folder."""
    return call(
        sys.executable,
        ROOT / "examples/buy.py",
        *words,
        folder=folder,
        **({"VEILMART_USER": folder.name, "VEILMART_PASSWORD": PASSWORD} | more),
    )


def shell(market: RealMarket, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`examples/buy.sh`, the same."""
    given = {
        "VEILMART_USER": folder.name,
        "VEILMART_PASSWORD_FILE": str(market.password_file),
        "VEILMART_PROFILE": "profile",
    }
    return call(ROOT / "examples/buy.sh", market.market_file, *words, folder=folder, **(given | more))


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder with a name that no other test has, which is the name of the account too."""
    found = tmp_path / request.node.name.replace("_", "-")
    found.mkdir()
    return found


def bought(market: RealMarket, folder: Path, ran: subprocess.CompletedProcess[str]) -> str:
    """Check what was printed and delivered; gives the order's id."""
    assert (ran.returncode, ran.stderr) == (0, "")
    file, receipt = (folder / line for line in ran.stdout.splitlines())
    assert file == folder / "bought" / "plan.md"
    assert file.read_bytes() == CONTENT
    verified = market.ran("receipt", "verify", receipt, "--market", market.market_file).data
    assert (verified["merchant"], verified["total"]) == ("sports", PRICE)
    return str(verified["order_id"])


def test_python(real_market: RealMarket, folder: Path) -> None:
    real_market.account(folder.name, "20.00")
    words = ("sports", SKU, "--key", "tuesday", "--market", str(real_market.market_file))
    first = python(real_market, folder, *words)
    order = bought(real_market, folder, first)
    # The account is empty now: whoever asks again does not log in, and pays nothing.
    again = python(real_market, folder, *words, VEILMART_PASSWORD="")
    assert bought(real_market, folder, again) == order
    held = real_market.ran("wallet", profile=folder / "profile").data
    assert (held["usable"], held["reserved"], held["logged_in"]) == (BUNDLE - PRICE, 0, False)

    missing = python(real_market, folder, "sports", "NOTHING", "--key", "thursday", "--at-most", "5")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.startswith("not_found: ")
    assert len(missing.stderr.splitlines()) == 1


@pytest.mark.exhaustive
def test_shell_says_what_is_wrong(real_market: RealMarket, folder: Path) -> None:
    stranger = shell(real_market, folder, "sports", SKU, "tuesday", "bought", VEILMART_USER="nobody")
    assert (stranger.returncode, stranger.stdout) == (5, "")
    assert stranger.stderr.startswith("authentication: ")
    assert len(stranger.stderr.splitlines()) == 1


@pytest.mark.exhaustive
def test_python_says_what_is_wrong(real_market: RealMarket, folder: Path) -> None:
    real_market.account(folder.name, "20.00")
    words = ("sports", SKU, "--key", "tuesday", "--market", str(real_market.market_file))
    for more, code, kind in (
        ({"VEILMART_PASSWORD": "another one"}, 5, "authentication"),
        ({"VEILMART_PASSWORD": ""}, 2, "usage"),
    ):
        ran = python(real_market, folder, *words, **more)
        assert (ran.returncode, ran.stdout, ran.stderr.partition(":")[0]) == (code, "", kind)
        assert "another one" not in ran.stderr
    dear = python(real_market, folder, *words, "--at-most", "9.89")
    assert (dear.returncode, dear.stderr.partition(":")[0]) == (4, "rejected")
    assert real_market.ran("orders", profile=folder / "profile").data == []


def test_shell(real_market: RealMarket, folder: Path) -> None:
    real_market.account(folder.name, "20.00")
    words = ("sports", SKU, "tuesday", "bought")
    order = bought(real_market, folder, shell(real_market, folder, *words))
    # The account is empty now: whoever asks again does not log in, and pays nothing.
    again = shell(real_market, folder, *words, VEILMART_PASSWORD_FILE="nowhere")
    assert bought(real_market, folder, again) == order
    assert real_market.ran("wallet", profile=folder / "profile").data["usable"] == BUNDLE - PRICE
    assert call(ROOT / "examples/buy.sh", folder=folder).returncode == 2
