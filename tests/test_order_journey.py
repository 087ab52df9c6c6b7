"""READ ME FIRST: one order, from an empty profile to the file on the customer's disk.

The whole market runs in memory here: a broker, a merchant, a customer, each with its own keys and its own
SQLite store, and every byte between them sealed, framed and decoded as on a real bus. The steps below are
the ones of `common/messages.py`, in the same order.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from world import World

from broker_node import ledger

RIDGE = b"<gpx>" + b"a morning on the ridge " * 9000 + b"</gpx>"
PRICE = 450


@pytest.mark.parametrize("key_type", ["ed25519", "rsa3072"])
def test_an_order_travels_the_whole_road(tmp_path: Path, key_type: str) -> None:
    world = World(tmp_path, key_type=key_type)
    try:
        # A merchant puts a file on sale. Its card, with the keys that open requests, stands on the bus.
        original = tmp_path / "ridge.gpx"
        original.write_bytes(RIDGE)
        shop = world.add_merchant("sports")
        shop.inventory.add(
            original, "GPX-RIDGE", title="Ridge in the morning", price=PRICE, category="routes"
        )

        with world.customer("alice") as market:
            # Hello, Welcome: an account session. The operator grants a balance; it becomes blind-signed
            # coins and tickets, which nobody, the broker included, can recognise later.
            market.sign_up("alice", "correct horse battery")
            world.fund("alice", 5000)
            market.withdraw()
            assert market.balance().amount == 3000
            assert market.wallet().usable == 2000

            # From here on another session, opened with a ticket: no name, no account.
            # AskMerchant, Forward, AnswerForward, MerchantAnswer: sealed between customer and merchant.
            product = market.show("sports", "GPX-RIDGE")
            assert (product.title, product.price) == ("Ridge in the morning", PRICE)

            # PlaceOrder, ForwardOrder, AnswerOrder, OrderAnswer: coins are spent, the merchant accepts.
            market.cart.add("sports", "GPX-RIDGE")
            (order,) = market.buy()
            assert order.state == "accepted"
            assert market.wallet().usable == 2000 - PRICE

            # FetchCells, ForwardFetch, Cells, MerchantCells: the file appears when its digest is right.
            (file,) = market.download(order.order_id, tmp_path / "bought")
            assert file.path.read_bytes() == RIDGE
            assert market.order(order.order_id).state == "complete"

            # The receipt is signed by the merchant and verifies offline.
            receipt = market.export_receipt(order.order_id, tmp_path / "receipt.json")
            assert (receipt.total, [line.sku for line in receipt.lines]) == (PRICE, ["GPX-RIDGE"])
            assert market.verify_receipt(tmp_path / "receipt.json") == receipt

        # OrderOutcome, OutcomeKept: the merchant was told that it is paid. ConfirmDelivery: it may have it.
        (sale,) = shop.reports.orders()
        assert (sale.state, sale.amount) == ("delivered", PRICE)
        with world.broker.store.immediate() as tx:
            report = ledger.check(tx)
        assert report.faults == ()
        assert report.books["available:sports"] == PRICE
        assert report.books["pending:sports"] == 0
        assert report.books.get("escrow", 0) == 0
    finally:
        world.close()
