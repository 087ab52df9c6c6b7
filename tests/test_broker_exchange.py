"""The broker, money against coins: withdraw, swap, refund; and what a token is spent for."""

from __future__ import annotations

from client import Customer, Session, Shopkeeper, blinded, fresh
from world import World

from broker_node.mint import owner_of
from common import messages


def swap(customer: Customer, session: Session, amount: int) -> tuple[bytes, list[messages.Token]]:
    operation, paid = fresh(), customer.pay(amount)
    request = messages.Swap(operation=operation, coins=paid, blinded=blinded(customer.world, [amount]).tokens)
    session.ask(request, messages.Swapped)
    return operation, paid


def test_coins_of_a_swap_pay_no_order_that_is_called_like_the_swap(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    operation, spent = swap(customer, session, 64)
    order = customer.order(64, order_id=owner_of("swap", operation), coins=spent)
    assert session.refused(order.place) == "double_spend"
