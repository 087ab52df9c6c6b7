"""Coins: swaps through the real bus, what mint and spent set do alone, and browsing beside withdrawals.

swaps_per_s    one coin in, two out: real Mosquitto, real broker, commits durable before the answer
redeem_per_s   coins verified, spent and posted as orders of 8 coins, 64 orders in each durable transaction,
               by one thread; no message is opened and no order stored: what those cost, `orders` measures
issue_per_s    blind signatures by one thread: one core
browse         p99 of a sealed question to a merchant, quiet and beside withdrawals of whole bundles; it rests
               on `samples`, and answers nothing where `load_reached` is false: fewer withdrawals were made
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from bench import conditions, customer, drawer, market, mosquitto, processes, swapper
from bench.figures import Figures, figures, medians
from bench.processes import Worker, say
from broker_node import ledger, mint
from broker_node.run import POOL_SIZES, open_store
from common import clock, codec, coins
from common.blind import BlindPrivateKey
from common.coins import BUNDLE, BUNDLE_TICKETS
from common.messages import Token

Measured: TypeAlias = Worker | mosquitto.Bus

SWAPS = 2500
WINDOW = 64
COIN = 16
REDEEMED = 4096
OF_AN_ORDER = 8
IN_A_TRANSACTION = 64 * OF_AN_ORDER
ISSUED = 1500
BROWSE_RATE = 40.0
WITHDRAW_RATE = 50.0
BROWSE_S = 10.0
REACHED = 0.95
"""The share of `WITHDRAW_RATE` from which on the load counts as reached: the last answers take their time."""
DRAWERS = 8


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    scale: float = 1.0
    profiles: Path | None = None

    def count(self, usual: float) -> int:
        return max(WINDOW, int(usual * self.scale))


def measure(plan: Plan) -> dict[str, Any]:
    """Measure everything in one market."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="veilmart-bench-")))
        (root / "bus").mkdir()
        bus = stack.enter_context(mosquitto.running(root / "bus"))
        homes = market.make(root, bus.ports)
        # The day's tickets of a few accounts have to do for everybody.
        (homes.broker / "limits.toml").write_text("tickets_per_day = 1_000_000\n")
        (root / "item").write_bytes(b"something small")
        market.put_on_sale(homes, root / "item", COIN)
        treasury = market.Treasury(homes)
        names = _open_accounts(plan, homes)
        say("minting coins")
        (root / "redeemed").write_bytes(codec.pack(treasury.coins([COIN] * plan.count(REDEEMED))))
        alone = {"issue": _issue(plan, homes, treasury), "redeem": _redeem(homes, root / "redeemed")}
        setups = _setups(root, homes, treasury, names)
        purses = []
        for number in range(plan.rounds):
            purses.append(root / f"coins-{number}")
            purses[-1].write_bytes(codec.pack(treasury.coins([COIN] * plan.count(SWAPS))))

        nodes = [stack.enter_context(n) for n in processes.nodes(homes.broker, homes.merchant, plan.profiles)]
        load = stack.enter_context(Worker("customers", "bench.swapper", str(setups["swapper"])))
        swaps, used = _swap(load, (load, nodes[0], bus), purses)
        # Only now: a worker that waits for its command lets its connection end.
        browser = stack.enter_context(
            Worker("browser", "bench.browser", str(homes.market), str(root / "ticket"))
        )
        drawing = stack.enter_context(Worker("drawers", "bench.drawer", str(setups["drawer"])))
        browse = _browse(plan, browser, drawing)
        everyone: tuple[Measured, ...] = (load, browser, drawing, *nodes, bus)
        peak = {process.name: process.peak_rss_mb for process in everyone}
        for node in nodes:
            node.stop()
        _check(homes)
    return {
        "coins": {
            "swaps_per_s": swaps["rate"],
            "redeem_per_s": alone["redeem"],
            "issue_per_s": alone["issue"],
            "swaps": swaps | {"window": WINDOW, "cpu_us_per_swap": used},
            "browse": browse,
        },
        "peak_rss_mb": peak,
        "conditions": conditions.describe()
        | {"signer": BlindPrivateKey.generate().signer, "mint_workers": POOL_SIZES["mint"]},
    }


def _open_accounts(plan: Plan, homes: market.Homes) -> list[str]:
    names = [f"drawer-{number}" for number in range(DRAWERS)]
    each = sum(BUNDLE) * plan.count(plan.rounds * BROWSE_S * WITHDRAW_RATE)
    for name in names:
        market.open_account(homes, name, customer.PASSWORD, each)
    return names


def _setups(
    root: Path, homes: market.Homes, treasury: market.Treasury, names: Sequence[str]
) -> dict[str, Path]:
    sessions = -(-WINDOW // swapper.SWAPS_OF_A_SESSION)
    (root / "tickets").write_bytes(codec.pack([treasury.ticket() for _ in range(sessions)]))
    (root / "ticket").write_bytes(codec.pack([treasury.ticket()]))
    (root / "issuers").write_bytes(codec.pack(treasury.issuers))
    setups: dict[str, Any] = {
        "swapper": swapper.Setup(str(homes.market), str(root / "tickets"), str(root / "issuers")),
        "drawer": drawer.Setup(str(homes.market), list(names), customer.PASSWORD),
    }
    paths = {name: root / f"{name}.json" for name in setups}
    for name, setup in setups.items():
        paths[name].write_bytes(msgspec.json.encode(setup))
    return paths


# --- alone ---------------------------------------------------------------------------------------------


def _issue(plan: Plan, homes: market.Homes, treasury: market.Treasury) -> float:
    """Sign blinded coins, in one thread, and give signatures per second of its processor time."""
    issuing = mint.Mint(homes.broker / "mint", treasury.issuers)
    issuer = next(each for each in treasury.issuers if each.value == COIN)
    seed = secrets.token_bytes(coins.SEED_BYTES)
    blinded = [coins.blind_token(issuer, seed, counter) for counter in range(plan.count(ISSUED))]
    begun = time.thread_time()
    signatures = issuing.sign(blinded)
    used = time.thread_time() - begun
    coins.unblind(issuer, seed, 0, signatures[0])
    rate = round(len(blinded) / used, 1)
    say(f"issue: {rate}/s of a core")
    return rate


def _redeem(homes: market.Homes, path: Path) -> float:
    """Verify, spend and post coins as orders do, in one thread, and give coins per second."""
    tokens = market.TOKENS.unpack(path.read_bytes())
    # On a copy of the store: its books know no order that these coins paid, and would be wrong.
    copy = path.with_name("redeeming")
    shutil.copytree(homes.broker, copy)
    store = open_store(copy)
    with store.immediate() as tx:
        issuing = mint.Mint(homes.broker / "mint", mint.load_issuers(tx))
    begun = time.perf_counter()
    for start in range(0, len(tokens), IN_A_TRANSACTION):
        _spend_orders(store, issuing, tokens[start : start + IN_A_TRANSACTION])
    seconds = time.perf_counter() - begun
    store.close()
    rate = round(len(tokens) / seconds, 1)
    say(f"redeem: {rate}/s")
    return rate


def _spend_orders(store: Any, issuing: mint.Mint, tokens: Sequence[Token]) -> None:
    now = clock.now_ms()
    with store.immediate() as tx:
        orders = {
            clock.random_bytes(16): issuing.verify(tokens[start : start + OF_AN_ORDER], "coin", now)
            for start in range(0, len(tokens), OF_AN_ORDER)
        }
        if mint.spend(tx, orders):
            raise RuntimeError("a fresh coin was spent already")
        for order, checked in orders.items():
            books = {ledger.coins_book(value): -amount for value, amount in checked.by_value.items()}
            ledger.post(tx, order, {**books, ledger.OPERATOR: checked.total}, now)


# --- through the bus -----------------------------------------------------------------------------------


def _swap(
    load: Worker, measured: Sequence[Measured], purses: Sequence[Path]
) -> tuple[Figures, dict[str, float]]:
    runs: list[Figures] = []
    used: list[dict[str, float]] = []
    for number, purse in enumerate(purses):
        count = load.ask(do="prepare", coins=str(purse))
        before = [process.cpu_seconds for process in measured]
        runs.append(load.ask(do="run", window=WINDOW))
        spent = zip(measured, before, strict=True)
        used.append({each.name: round((each.cpu_seconds - old) / count * 1e6) for each, old in spent})
        if load.ask(do="verify") != 2 * count:
            raise RuntimeError("a swap brought something else than two coins")
        say(f"round {number + 1}: {runs[-1]['rate']} swaps/s, processor time per swap in us: {used[-1]}")
    return medians(runs), medians(used)


def _browse(plan: Plan, browser: Worker, drawing: Worker) -> dict[str, Any]:
    seconds = BROWSE_S * plan.scale
    quiet: list[float] = []
    loaded: list[float] = []
    drawn: list[Figures] = []
    browser.ask(rate=BROWSE_RATE, seconds=0.5)
    for number in range(plan.rounds):
        # A little more than the browsing takes, so that all of it stands beside withdrawals.
        drawing.ask(do="prepare", count=int(WITHDRAW_RATE * (seconds + 0.5)))
        quiet += browser.ask(rate=BROWSE_RATE, seconds=seconds)
        drawing.begin(do="run", rate=WITHDRAW_RATE)
        loaded += browser.ask(rate=BROWSE_RATE, seconds=seconds)
        drawn.append(drawing.answer())
        say(f"round {number + 1}: {drawn[-1]['rate']} withdrawals/s, p99 {drawn[-1]['p99_ms']} ms")
    still, beside = _latencies(quiet), _latencies(loaded)
    ratio = round(beside["p99_ms"] / still["p99_ms"], 3)
    say(f"browse: quiet {still}, beside withdrawals {beside}, ratio {ratio}")
    drawn_per_s = round(min(run["rate"] for run in drawn), 1)
    reached = drawn_per_s >= REACHED * WITHDRAW_RATE
    if not reached:
        say(f"NOT REACHED: {drawn_per_s} withdrawals/s instead of {WITHDRAW_RATE}: the ratio is no answer")
    signatures = len(BUNDLE) + BUNDLE_TICKETS
    return {
        "quiet": still,
        "beside_withdrawals": beside,
        "p99_ratio": ratio,
        "withdrawals_per_s": drawn_per_s,
        "load_reached": reached,
        "samples": len(loaded),
        "signatures_per_withdrawal": signatures,
        "browses_per_s": BROWSE_RATE,
    }


def _latencies(latencies: Sequence[float]) -> Figures:
    measured = figures(len(latencies), 1.0, latencies)
    return {name: measured[name] for name in ("p50_ms", "p99_ms")}


def _check(homes: market.Homes) -> None:
    store = open_store(homes.broker)
    with store.immediate() as tx:
        report = ledger.check(tx)
    store.close()
    if report.faults:
        raise RuntimeError(f"the books are wrong: {report.faults}")
