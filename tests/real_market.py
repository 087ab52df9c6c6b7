"""A market of real processes that tests share: Mosquitto, a broker and the merchant `sports`.

The fixture `real_market` is one for the whole run: whoever stops a node starts it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import WHY, Ran, veilmart

from mosquitto import free_ports
from veilmart.processes import NodeProcess, running

PASSWORD = "correct horse battery"
CONTENT = b"eight weeks to ten kilometres\n" * 4000
SKU, PRICE = "PLAN-10K", 990
BUNDLE = 2000


@dataclass(frozen=True)
class RealMarket:
    """`home` is its `VEILMART_HOME`."""

    home: Path
    nodes: dict[str, NodeProcess]

    @property
    def market_file(self) -> Path:
        return self.home / "market.json"

    @property
    def password_file(self) -> Path:
        return self.home / "password"

    def ran(self, *words: str | Path, profile: Path | None = None) -> Ran:
        """Run a command line in this process, with --json."""
        more = {} if profile is None else {"VEILMART_PROFILE": str(profile)}
        return veilmart(*words, "--json", home=self.home, **more)

    def account(self, name: str, amount: str) -> None:
        """Open an account with a balance, as the operator does."""
        assert (
            self.ran("broker", "account", "add", name, *WHY, "--password-file", self.password_file).code == 0
        )
        if float(amount):
            assert self.ran("broker", "account", "credit", name, amount, *WHY, "--yes").code == 0

    def customer(self, profile: Path, bundles: int = 1) -> Path:
        """Make a profile that has joined and has bundles in its wallet."""
        assert self.ran("join", self.market_file, "--no-passphrase", profile=profile).code == 0
        self.account(profile.name, f"{bundles * BUNDLE // 100}.00")
        words = ("login", profile.name, "--password-file", self.password_file)
        assert self.ran(*words, profile=profile).code == 0
        if bundles:
            assert self.ran("withdraw", "--bundles", str(bundles), "--yes", profile=profile).code == 0
        return profile

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """Stop nodes for a while."""
        for name in names:
            self.nodes[name].stop()
        try:
            yield
        finally:
            for name in reversed(names):
                self.nodes[name].start()


def environment(**more: str) -> dict[str, str]:
    """What a shell of a person has who called `export PATH=$PWD/.venv/bin:$PATH`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VEILMART_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | more


def call(
    *words: str | Path, folder: Path, patience_s: float = 60, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )


@pytest.fixture(scope="session")
def real_market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMarket]:
    home = tmp_path_factory.mktemp("real") / "market"
    public, nodes = free_ports(2)
    ports = ("--public-port", str(public), "--node-port", str(nodes))
    more = ("--minimum-age", "0", "--gateway", "sandbox")
    assert veilmart("init", *ports, *more, home=home).code == 0
    assert veilmart("merchant", "init", "sports", "--name", "Sports shop", home=home).code == 0
    certificate, plan = home / "sports.crt", home / "plan.md"
    veilmart("ca", "sign", home / "merchants/sports/identity.csr", "--out", certificate, home=home)
    assert veilmart("merchant", "install-cert", certificate, home=home).code == 0
    plan.write_bytes(CONTENT)
    add = ("merchant", "product", "add", plan, "--sku", SKU, "--title", "Ten kilometres", "--price", "9.90")
    assert veilmart(*add, home=home).code == 0
    (home / "password").write_text(PASSWORD + "\n")
    homes = {"bus": home / "bus", "broker": home / "broker", "merchant": home / "merchants/sports"}
    processes = {
        name: NodeProcess(name, [name, "run", "--home", str(place)], home / "logs" / name)
        for name, place in homes.items()
    }
    with running(list(processes.values())):
        yield RealMarket(home, processes)
