"""The demo's course: set up, buy, look at what everybody saw, and stay up.

make demo                         stays up until Ctrl-C
make demo ARGS="--once --json"    ends after the purchases, with one line of JSON
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker_node import administration
from common import clock
from common.keys import PRIVATE_FILE_MODE, create_file
from customer_node import Market
from veilmart.cli.broker_store import broker_store
from veilmart.demo.market import REASON, DemoMarket, demo_market
from veilmart.demo.pages import Pages, open_pages
from veilmart.demo.saw import Records, Saw
from veilmart.demo.shopping import Bought, customers, shop

GUEST = "guest"
GUEST_BALANCE = 10_000


@dataclass(frozen=True)
class Result:
    """What the demo reports: the orders, and what each party saw."""

    bought: list[Bought]
    saw: Mapping[str, Saw]

    @property
    def data(self) -> dict[str, Any]:
        """Give it as the JSON envelope has it."""
        return {
            "orders": [
                {
                    "order_id": item.order_id,
                    "merchant": item.merchant,
                    "state": item.state,
                    "seconds": round(item.seconds, 3),
                    "lines": item.lines,
                }
                for item in self.bought
            ],
            "saw": {
                party: {
                    "learned": saw.learned,
                    "searched_for": saw.searched_for,
                    "found": len(saw.found),
                    **({"findings": saw.found} if saw.found else {}),
                }
                for party, saw in self.saw.items()
            },
        }


def run_demo(
    state: Path,
    say: Callable[[str], None],
    report: Callable[[Result, DemoMarket, Pages | None], None],
    *,
    stay: bool,
) -> Result:
    """Run the demo and call `report` when all is bought; with `stay`, stay up until interrupted.

    A `KeyboardInterrupt` before that is raised, with every process ended.
    """
    with demo_market(state, say) as market:
        people = customers()
        bought = shop(market, people, say)
        say("looking through everything that each party received, stored and logged")
        result = Result(bought, Records.collect(market, people, bought).all())
        if not stay:
            report(result, market, None)
            return result
        _invite(market)
        say("opening a shop and a dashboard as pages")
        with open_pages(market) as pages:
            report(result, market, pages)
            with contextlib.suppress(KeyboardInterrupt):
                pages.relay(say)
                threading.Event().wait()
            say("stopping")
    return result


def _invite(market: DemoMarket) -> None:
    """Make a login with a balance for whoever wants to try, and a profile that has joined."""
    password = clock.random_bytes(9).hex()
    with broker_store(market.report.broker_home) as desk:
        now, random = clock.now_ms(), clock.random_bytes
        administration.add(desk.tx, desk.audit, GUEST, password, REASON, now, random)
    market.fund(GUEST, GUEST_BALANCE)
    folder = market.state / "passwords"
    folder.mkdir(mode=0o700, exist_ok=True)
    create_file(folder / GUEST, password.encode(), mode=PRIVATE_FILE_MODE)
    Market.join(market.profile(GUEST), market.market_path)
