"""Attacks on money: each is refused with an error of its own, and no entry is written for it.

The attackers have what they would have: sessions of their own, everything that crossed the bus, coins that
were spent, in one place the mint's private keys. Two broker processes on one store are in
`test_two_brokers.py`; what a single signature's bit decides is in `test_coins.py`.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from client import (
    Customer,
    Order,
    Session,
    Shopkeeper,
    accept,
    blinded,
    broker_card,
    dump,
    fresh,
    order_state,
    reject,
    settle,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from customer_shop import Bazaar
from world import World

from broker_node import ledger, mint, operations, schema
from common import blind, clock, coins, config, messages, slots
from common.blind import BlindPrivateKey, BlindPublicKey
from common.errors import MalformedError, RejectedError, UntrustedError
from common.store import Store
from customer_node import Market, drafts, issuers, orders
from customer_node.fetching import Fetch
from merchant_node import schema as merchant_schema


@contextmanager
def nothing_written(world: World) -> Iterator[None]:
    """Demand that no row of the broker's store changes, and that its books stay right."""
    before = dump(world)
    yield
    settle(world)
    assert dump(world) == before
    assert_books_right(world)


def assert_books_right(world: World) -> dict[str, int]:
    with world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    return dict(report.books)


def entries(world: World) -> list[Any]:
    return dump(world)["ledger"]


def swap(world: World, paid: list[messages.Token], values: list[int], **changes: Any) -> messages.Swap:
    fields = {"operation": fresh(), "coins": paid, "blinded": blinded(world, values).tokens}
    return messages.Swap(**(fields | changes))


def withdraw(world: World, values: list[int], **changes: Any) -> messages.Withdraw:
    fields = {"operation": fresh(), "coins": blinded(world, values).tokens, "tickets": []}
    return messages.Withdraw(**(fields | changes))


def altered_token(token: messages.Token, **changes: Any) -> messages.Token:
    return msgspec.structs.replace(token, **changes)


def refundable(customer: Customer, session: Session, keeper: Shopkeeper, amount: int = 100) -> Order:
    order = customer.order(amount)
    session.say(order.place)
    keeper.say(reject(keeper.hear(messages.ForwardOrder)))
    assert session.hear(messages.OrderAnswer).state == "refundable"
    return order


# --- ids that belong to something else -----------------------------------------------------------------


def test_order_called_like_a_withdrawal_a_swap_or_a_claim(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    world.fund("alice", 100)
    account, session = customer.account(), customer.shop()
    given_back = refundable(customer, session, keeper, 64)
    asked = (
        withdraw(world, [1]),
        swap(world, customer.pay(2), [1, 1]),
        given_back.claim(blinded(world, [64])),
    )
    account.ask(asked[0], messages.Withdrawn)
    session.ask(asked[1], messages.Swapped)
    session.ask(asked[2], messages.RefundIssued)
    names = {operations.key_of(request) for request in asked} | {request.operation for request in asked}
    # An order's own entries are found by its id, and each of these can be computed by who asked.
    for amount, name in zip((1, 4, 8, 16, 32), names - {given_back.id}, strict=True):
        order = customer.order(amount, order_id=name)
        session.say(order.place)
        settle(world)
        session.collect()
        assert_books_right(world)


def test_references_of_operations_are_nobodys_choice(world: World, customer: Customer) -> None:
    request = swap(world, customer.pay(2), [1, 1])
    customer.shop().ask(request, messages.Swapped)
    with world.broker.store.immediate() as tx:
        references = {row["reference"] for row in tx.all(sa.select(schema.postings))}
    assert not references & {request.operation, operations.key_of(request)}


def test_order_called_like_what_a_broker_of_before_posted(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    request = swap(world, customer.pay(2), [1, 1])
    session.ask(request, messages.Swapped)
    order = customer.order(32, order_id=operations.key_of(request))
    with nothing_written(world):
        assert session.refused(order.place) == "idempotency_conflict"


def test_payout_called_like_an_order_and_order_called_like_a_payout(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    sold = customer.order(100)
    session.say(sold.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    session.ask(sold.confirmed, messages.OrderAnswer)
    wanted = messages.RequestPayout(payout_id=sold.id, amount=30, destination="a bank")
    with nothing_written(world):
        assert keeper.ask(wanted, messages.PayoutRefused).code == "idempotency_conflict"
    wanted = messages.RequestPayout(payout_id=fresh(), amount=30, destination="a bank")
    keeper.ask(wanted, messages.PayoutAnswer)
    with nothing_written(world):
        assert session.refused(customer.order(16, order_id=wanted.payout_id).place) == "idempotency_conflict"
    assert_books_right(world)


# --- double spend --------------------------------------------------------------------------------------


def test_double_spend_of_a_coin_with_which_an_order_a_swap_or_a_session_was_paid(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    ordered, swapped, ticket = customer.pay(64), customer.pay(32), customer.tickets[-1]
    session.say(customer.order(64, coins=ordered).place)
    keeper.hear(messages.ForwardOrder)
    session.ask(swap(world, swapped, [32]), messages.Swapped)
    other = customer.shop()
    assert ticket not in customer.tickets
    with nothing_written(world):
        for spent, amount in ((ordered, 64), (swapped, 32), (ordered + swapped, 96)):
            assert other.refused(customer.order(amount, coins=spent).place) == "double_spend"
            assert other.refused(swap(world, spent, [amount // 2] * 2 if amount < 96 else [64, 32])) == (
                "double_spend"
            )
        answer = Session(world).greet(messages.TicketCredential(ticket=ticket))
        assert isinstance(answer, messages.HelloRefused)
        assert answer.code == "double_spend"


def test_double_spend_within_one_order_or_swap(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    (coin,) = customer.pay(64)
    with nothing_written(world):
        assert session.refused(customer.order(128, coins=[coin, coin]).place) == "double_spend"
        assert session.refused(swap(world, [coin, coin], [128])) == "double_spend"


def test_double_spend_at_the_same_instant_exactly_one_order_wins(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, other = customer.shop(), customer.shop()
    paid = customer.pay(100)
    rivals = [customer.order(coins=paid) for _ in range(4)]
    session.say(*(order.place for order in rivals[:2]))
    other.say(*(order.place for order in rivals[2:]))
    winner = keeper.hear(messages.ForwardOrder)
    refused = [*session.collect(), *other.collect()]
    assert [body.code for body in refused] == ["double_spend"] * 3
    assert {winner.order_id, *(body.reference for body in refused)} == {order.id for order in rivals}
    books = assert_books_right(world)
    assert (books["escrow"], len(dump(world)["orders"])) == (100, 1)


# --- signatures and keys -------------------------------------------------------------------------------


def test_forged_signature(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    (coin,), (other,) = customer.pay(64), customer.pay(32)
    forged = [
        altered_token(coin, serial=bytes(32)),
        altered_token(coin, prefix=bytes(32)),
        altered_token(coin, signature=bytes(256)),
        altered_token(coin, signature=(1).to_bytes(256)),
        altered_token(coin, signature=other.signature),
        # The message that a signature of 1 would be for, which anyone can compute for a raw RSA scheme.
        altered_token(coin, prefix=b"\0" * 32, serial=b"\0" * 32, signature=(1).to_bytes(256)),
    ]
    with nothing_written(world):
        for token in forged:
            assert session.refused(customer.order(64, coins=[token]).place) == "bad_token"
            assert session.refused(swap(world, [token], [64])) == "bad_token"
        ticket = altered_token(customer.tickets[0], serial=bytes(32))
        answer = Session(world).greet(messages.TicketCredential(ticket=ticket))
        assert isinstance(answer, messages.HelloRefused)
        assert answer.code == "bad_token"


def signed_again(private: BlindPrivateKey, token: messages.Token) -> Iterator[messages.Token]:
    """Sign what a coin is about under other salts: as valid as the first one, and other bytes."""
    message = coins.prepared("coin", token.key_id, token.prefix, token.serial)
    for salt in itertools.count(1):
        masked, inverse = blind.blind(private.public, message, salt.to_bytes(48), 3)
        signature = blind.finalize(private.public, message, private.blind_sign(masked), inverse)
        yield altered_token(token, signature=signature)


def test_reencoded_signature(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    private = world.broker.issuing._private
    coin = min(customer.coins, key=lambda token: private[token.key_id].public.modulus)
    key, value = private[coin.key_id], customer.values_of[coin.key_id]
    others = signed_again(key, coin)
    # s + n is s modulo n; about every second one fits into the same 256 bytes.
    small = next(t for t in others if int.from_bytes(t.signature) + key.public.modulus < 2**2048)
    larger = (int.from_bytes(small.signature) + key.public.modulus).to_bytes(256)
    with nothing_written(world):
        wrapped = altered_token(small, signature=larger)
        assert session.refused(customer.order(value, coins=[wrapped]).place) == "bad_token"
        for signature in (b"\0" + coin.signature, coin.signature[:-1], coin.signature + b"\0"):
            order = customer.order(value, coins=[altered_token(coin, signature=signature)])
            assert dropped(world, session, order.place) == "malformed"
    session.say(customer.order(value, coins=[coin]).place)
    keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        # Whoever could make another valid signature of a spent coin would still have spent it.
        assert session.refused(customer.order(value, coins=[small]).place) == "double_spend"
        assert session.refused(swap(world, [next(others)], [value])) == "double_spend"


def dropped(world: World, session: Session, body: Any) -> str:
    """Send what no party may even decode; gives the reason under which it was counted."""
    before = world.running["broker"].loop.refused.copy()
    session.say(body)
    assert session.collect() == []
    (reason,) = (world.running["broker"].loop.refused - before).elements()
    return reason


def test_coin_of_another_denomination(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    (cheap,) = customer.pay(32)
    announced = broker_card(world).issuer_keys
    # Next month's keys, which a card may show already, are unknown in any case.
    (month,) = {issuer.month for issuer in announced if issuer.key_id == cheap.key_id}
    keys = {issuer.value: issuer.key_id for issuer in announced if issuer.month == month}
    with nothing_written(world):
        for value in (64, 1024, 16):
            dearer = altered_token(cheap, key_id=keys[value])
            assert session.refused(customer.order(value, coins=[dearer]).place) == "bad_token"
            assert session.refused(swap(world, [dearer], [value])) == "bad_token"
        ticket = customer.tickets[0]
        as_coin = altered_token(ticket, key_id=keys[1])
        assert session.refused(customer.order(1, coins=[as_coin]).place) == "bad_token"
        assert session.refused(customer.order(1, coins=[ticket]).place) == "unknown_key"
        answer = Session(world).greet(messages.TicketCredential(ticket=cheap))
        assert isinstance(answer, messages.HelloRefused)
        assert answer.code == "unknown_key"


def key_of_month(world: World, month: str, value: int = 32) -> messages.IssuerKey:
    """Make the key of another month; the broker loads it, as it would next month's or an old one."""
    with world.broker.store.immediate() as tx:
        issuer = mint.make_key(tx, world.broker.home / "mint", "coin", value, month)
    world.broker.issuing.add(issuer)
    return issuer


def test_coin_of_another_month(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session, account = customer.shop(), customer.account()
    (coin,) = customer.pay(32)
    this = slots.month_of(clock.now_ms())
    last = slots.previous_month(this)
    old, ended, coming = (
        key_of_month(world, month) for month in (last, slots.previous_month(last), "2999-01")
    )
    seed = bytes(32)

    def genuine(issuer: messages.IssuerKey) -> messages.Token:
        masked = coins.blind_token(issuer, seed, 0)
        return coins.unblind(issuer, seed, 0, *world.broker.issuing.sign([masked]))

    with nothing_written(world):
        for issuer in (ended, coming):
            renamed = altered_token(coin, key_id=issuer.key_id)
            code = "key_retired" if issuer is ended else "unknown_key"
            for token in (renamed, genuine(issuer)):
                assert session.refused(customer.order(32, coins=[token]).place) == code
                assert session.refused(swap(world, [token], [32])) == code
        renamed = altered_token(coin, key_id=old.key_id)
        assert session.refused(customer.order(32, coins=[renamed]).place) == "bad_token"
        # New coins are this month's alone: last month's would live for less than they should.
        for issuer in (old, ended, coming):
            asked = [coins.blind_token(issuer, seed, 1)]
            assert account.refused(withdraw(world, [], coins=asked)) == "unknown_key"
            assert session.refused(swap(world, [coin], [], blinded=asked)) == "unknown_key"


def test_key_of_the_wrong_size_or_exponent(world: World, tmp_path: Any) -> None:
    store = Store.in_home(tmp_path, "profile.db", "customer_node.migrations")
    good = next(key for key in broker_card(world).issuer_keys if key.value == 64)
    modulus = BlindPrivateKey.generate().public.modulus
    wrong = [
        rsa.RSAPublicNumbers(3, modulus).public_key(),
        rsa.RSAPublicNumbers(2**32 + 1, modulus).public_key(),
        rsa.RSAPublicNumbers(65537, modulus >> 1 | 1).public_key(),
        rsa.RSAPublicNumbers(65537, modulus << 8 | 1).public_key(),
    ]
    for key in wrong:
        public = blind.BlindPublicKey.of(key)
        announced = msgspec.structs.replace(good, key_id=public.key_id, public=public.der)
        with pytest.raises(UntrustedError, match="unusable key"), store.immediate() as tx:
            issuers.learn(tx, [announced])
        with pytest.raises(MalformedError):
            coins.blind_token(announced, bytes(32), 0)
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - too small, on purpose
    pem = BlindPrivateKey.of(small).to_pem()
    with pytest.raises(ValueError, match="RSA-2048"):
        BlindPrivateKey.from_pem(pem)  # nor does the mint take one from its own folder
    with store.immediate() as tx:
        issuers.learn(tx, [good])
        assert [row["key_id"] for row in tx.all(sa.select(issuers.issuer_keys))] == [good.key_id]
    store.close()


def test_second_key_for_a_slot(world: World, tmp_path: Any) -> None:
    good = next(key for key in broker_card(world).issuer_keys if key.value == 64)
    with (
        nothing_written(world),
        pytest.raises(sqlite3.IntegrityError),
        world.broker.store.immediate() as tx,
    ):
        mint.make_key(tx, world.broker.home / "mint", good.purpose, good.value, good.month)
    # Nor does a customer take one; the two cards are kept as evidence (`test_customer_trust.py`).
    key = rsa.generate_private_key(65537, 2048).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = blind.BlindPublicKey.from_der(der)
    second = msgspec.structs.replace(good, key_id=public.key_id, public=der)
    store = Store.in_home(tmp_path, "profile.db", "customer_node.migrations")
    for announced in ([good, second], [second]):
        with store.immediate() as tx:
            issuers.learn(tx, [good])
        with pytest.raises(UntrustedError, match="second coin key"), store.immediate() as tx:
            issuers.learn(tx, announced)
    # One key for two values would let a coin of the one pass as the other.
    twice = msgspec.structs.replace(good, value=128)
    with pytest.raises(UntrustedError, match="one key for two"), store.immediate() as tx:
        issuers.learn(tx, [twice])
    with store.immediate() as tx:
        assert [row["key_id"] for row in tx.all(sa.select(issuers.issuer_keys))] == [good.key_id]
    store.close()


# --- swap ----------------------------------------------------------------------------------------------


def test_swap_whose_sums_differ(world: World, customer: Customer) -> None:
    session = customer.shop()
    paid = customer.pay(16)
    with nothing_written(world):
        for values in ([8], [8, 4, 2, 1], [16, 1], [16, 16], [16384]):
            assert session.refused(swap(world, paid, values)) == "wrong_amount"
        assert dropped(world, session, swap(world, paid, [])) == "malformed"
        assert dropped(world, session, swap(world, [], [16])) == "malformed"


def test_swap_that_hides_a_key_id(world: World, customer: Customer) -> None:
    session = customer.shop()
    paid = customer.pay(16)
    (entry,), (dear,), (cheap,) = (blinded(world, [value]).tokens for value in (0, 1024, 16))
    unknown = messages.BlindedToken(key_id=bytes(8), blinded=cheap.blinded)
    with nothing_written(world):
        for hidden in ([entry], [cheap, entry], [unknown], [cheap, unknown]):
            assert session.refused(swap(world, paid, [], blinded=hidden)) == "unknown_key"
    # A blinded coin of 1024 under the id of 16 is signed with the key of 16, and is a coin of neither.
    # (One that is no number below the modulus of 16 is refused before: another is drawn.)
    modulus = BlindPublicKey.from_der(blinded(world, [16]).issuers[0].public).modulus
    wanted = next(
        each
        for each in (blinded(world, [1024]) for _ in range(64))
        if int.from_bytes(each.tokens[0].blinded, "big") < modulus
    )
    hidden = [messages.BlindedToken(key_id=cheap.key_id, blinded=wanted.tokens[0].blinded)]
    answer = session.ask(swap(world, paid, [], blinded=hidden), messages.Swapped)
    with pytest.raises(Exception, match="does not verify"):
        wanted.unblind(answer.signatures)
    assert dear.key_id != cheap.key_id
    assert_books_right(world)


# --- withdraw ------------------------------------------------------------------------------------------


def test_withdraw_beyond_the_balance_from_two_sessions_at_once(world: World) -> None:
    customer = Customer(world, extra=100)
    one, two = customer.account(), customer.account()
    with nothing_written(world):
        assert one.refused(withdraw(world, [64, 64])) == "insufficient_funds"
    for session in (one, two):
        session.say(withdraw(world, [64]))
    heard = []
    assert world.pump(lambda: heard.extend([*one.collect(), *two.collect()]) or len(heard) == 2)  # type: ignore[func-returns-value]
    refused, signed = sorted(heard, key=lambda body: type(body).__name__)
    assert (refused.code, signed.balance) == ("insufficient_funds", 36)
    assert assert_books_right(world)["account:1"] == 36
    with nothing_written(world):
        assert two.refused(withdraw(world, [64])) == "insufficient_funds"


def test_replayed_withdraw_same_signatures_and_no_second_debit_other_bytes_conflict(world: World) -> None:
    customer = Customer(world, extra=100)
    account, other = customer.account(), customer.account()
    request = withdraw(world, [16, 2])
    first = account.ask(request, messages.Withdrawn)
    with nothing_written(world):
        assert account.ask(request, messages.Withdrawn) == first
        assert other.ask(request, messages.Withdrawn) == first
        for different in (
            withdraw(world, [16, 2], operation=request.operation),
            msgspec.structs.replace(request, coins=request.coins[::-1]),
            msgspec.structs.replace(request, coins=request.coins[:1]),
        ):
            assert other.refused(different) == "idempotency_conflict"


def test_blinded_value_that_cannot_be_signed(world: World) -> None:
    customer = Customer(world, extra=100)
    account = customer.account()
    (good,) = blinded(world, [64]).tokens
    with nothing_written(world):
        for block in (bytes(256), b"\xff" * 256):
            bad = messages.BlindedToken(key_id=good.key_id, blinded=block)
            assert account.refused(withdraw(world, [], coins=[bad])) == "bad_token"


# --- refund --------------------------------------------------------------------------------------------


def test_replayed_swap_or_claim_same_signatures_other_bytes_conflict(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = refundable(customer, session, keeper)
    exchange, claim = swap(world, customer.pay(16), [8, 8]), order.claim(blinded(world, [64, 32, 4]))
    swapped = session.ask(exchange, messages.Swapped)
    issued = session.ask(claim, messages.RefundIssued)
    other = customer.shop()
    with nothing_written(world):
        for asking in (session, other):
            assert asking.ask(exchange, messages.Swapped) == swapped
            assert asking.ask(claim, messages.RefundIssued) == issued
            changed = swap(world, exchange.coins, [8, 8], operation=exchange.operation)
            assert asking.refused(changed) == "idempotency_conflict"
            assert asking.refused(order.claim(blinded(world, [64, 32, 4]))) == "idempotency_conflict"


def test_refund_with_a_wrong_secret(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = refundable(customer, session, keeper)
    wanted = blinded(world, [64, 32, 4])
    with nothing_written(world):
        for secret in (bytes(32), order.status_secret, order.place.claim_lock):
            assert session.refused(order.claim(wanted, claim_secret=secret)) == "wrong_secret"
        assert session.refused(order.claim(wanted, order_id=fresh())) == "not_found"
        assert session.refused(order.claim(blinded(world, [64, 32, 4, 1]))) == "wrong_amount"


def test_refund_twice(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = refundable(customer, session, keeper)
    session.say(*(order.claim(blinded(world, [64, 32, 4])) for _ in "12"))
    assert session.hear(messages.RefundIssued)
    assert session.hear(messages.Refused).code == "idempotency_conflict"
    with nothing_written(world):
        assert session.refused(order.claim(blinded(world, [64, 32, 4]))) == "idempotency_conflict"
        # Nor do the coins count again with which the refunded order was paid.
        assert session.refused(customer.order(coins=order.place.coins).place) == "double_spend"
    assert assert_books_right(world).get("escrow", 0) == 0


def test_refund_after_capture_and_before_any_answer(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        assert session.refused(order.claim(blinded(world, [64, 32, 4]))) == "wrong_state"
    keeper.say(accept(forward))
    session.hear(messages.OrderAnswer)
    with nothing_written(world):
        assert session.refused(order.claim(blinded(world, [64, 32, 4]))) == "wrong_state"
    assert order_state(world, order.id) == "captured"


def paid(customer: Customer, session: Session, keeper: Shopkeeper, amount: int = 100) -> Order:
    order = customer.order(amount)
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    assert session.hear(messages.OrderAnswer).state == "captured"
    keeper.collect()
    return order


def gives_back(order: Order, amount: int, refund: bytes = b"") -> messages.RefundOrder:
    return messages.RefundOrder(order_id=order.id, refund=refund or fresh(), amount=amount)


def test_refund_of_more_than_was_given_back(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = paid(customer, session, keeper)
    keeper.ask(gives_back(order, 36), messages.RefundTaken)
    with nothing_written(world):
        for values in ([64, 32, 4], [32, 4, 1], [64]):
            claim = order.claim(blinded(world, values), operation=fresh())
            assert session.refused(claim) in {"wrong_amount", "wrong_state"}
    # In two parts at once, of which one is too much together with the other.
    claims = [order.claim(blinded(world, [32]), operation=fresh()) for _ in "12"]
    session.say(*claims)
    kinds = sorted(
        type(body).__name__ for body in (session.hear(messages.RefundIssued), session.hear(messages.Refused))
    )
    assert kinds == ["RefundIssued", "Refused"]
    assert assert_books_right(world)["escrow"] == 4


def test_refund_by_a_merchant_of_more_than_is_left_twice_or_of_anothers_order(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, films = customer.shop(), Shopkeeper(world, "films")
    order, open_order = paid(customer, session, keeper), customer.order(64)
    refund = gives_back(order, 60)
    taken = keeper.ask(refund, messages.RefundTaken)
    session.say(open_order.place)
    keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        assert keeper.ask(refund, messages.RefundTaken) == taken
        assert keeper.refused(gives_back(order, 50, refund.refund)) == "idempotency_conflict"
        assert keeper.refused(gives_back(order, 41)) == "wrong_amount"
        assert keeper.refused(gives_back(open_order, 1)) == "wrong_state"
        assert films.refused(gives_back(order, 1)) == "not_found"
    assert assert_books_right(world)["pending:sports"] == 40


def test_cancel_of_anothers_order_or_after_capture(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, thief = customer.shop(), customer.shop()
    order = customer.order()
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        for secret in (bytes(32), order.status_secret, order.place.claim_lock):
            stolen = messages.CancelOrder(order_id=order.id, claim_secret=secret)
            assert thief.refused(stolen) == "wrong_secret"
    keeper.say(accept(forward))
    session.hear(messages.OrderAnswer)
    with nothing_written(world):
        assert session.ask(order.cancelled, messages.OrderAnswer).state == "captured"


# --- a blinded value that was signed ------------------------------------------------------------------


def wanting(world: World, token: messages.BlindedToken, values: list[int]) -> list[messages.BlindedToken]:
    """Want this value once more, and then coins that nobody had."""
    return [token, *blinded(world, values).tokens]


def test_value_that_was_signed_for_another_operation(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    """It would be the coin that there is already: whoever wants it again would pay for nothing."""
    world.fund("alice", 200)
    account, session = customer.account(), customer.shop()
    given_back = refundable(customer, session, keeper, 64)
    with_tickets = blinded(world, [0]).tokens
    drawn = withdraw(world, [16, 1], tickets=with_tickets)
    exchanged = swap(world, customer.pay(16), [16])
    claimed = given_back.claim(blinded(world, [16]), operation=fresh())
    answers = [
        account.ask(drawn, messages.Withdrawn),
        session.ask(exchanged, messages.Swapped),
        session.ask(claimed, messages.RefundIssued),
    ]
    paid = customer.pay(32)
    with nothing_written(world):
        assert account.refused(withdraw(world, [], tickets=with_tickets)) == "already_signed"
        for known in (drawn.coins[0], exchanged.blinded[0], claimed.blinded[0]):
            wanted = wanting(world, known, [8, 8])
            assert account.refused(withdraw(world, [], coins=wanted)) == "already_signed"
            assert session.refused(swap(world, paid, [], blinded=wanted)) == "already_signed"
            claim = msgspec.structs.replace(claimed, operation=fresh(), blinded=wanted)
            assert session.refused(claim) == "already_signed"
        # The operation that it was signed for is answered as ever, also when its coin was refused elsewhere.
        assert account.ask(drawn, messages.Withdrawn) == answers[0]
        assert session.ask(exchanged, messages.Swapped) == answers[1]
        assert session.ask(claimed, messages.RefundIssued) == answers[2]
    # Nothing was spent for what was refused, and nothing of the refund is gone.
    session.ask(swap(world, paid, [16, 8, 8]), messages.Swapped)
    session.ask(given_back.claim(blinded(world, [32, 16]), operation=fresh()), messages.RefundIssued)
    assert_books_right(world)


def test_value_that_stands_twice_in_one_request(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    world.fund("alice", 100)
    account, session = customer.account(), customer.shop()
    given_back = refundable(customer, session, keeper, 64)
    twice = blinded(world, [32]).tokens * 2
    with nothing_written(world):
        assert account.refused(withdraw(world, [], coins=twice)) == "already_signed"
        tickets = blinded(world, [0]).tokens * 2
        assert account.refused(withdraw(world, [], tickets=tickets)) == "already_signed"
        assert session.refused(swap(world, customer.pay(64), [], blinded=twice)) == "already_signed"
        claim = messages.ClaimRefund(
            operation=fresh(), order_id=given_back.id, claim_secret=given_back.claim_secret, blinded=twice
        )
        assert session.refused(claim) == "already_signed"


def test_value_that_two_requests_of_one_batch_want(world: World, customer: Customer) -> None:
    world.fund("alice", 200)
    account, session, other = customer.account(), customer.shop(), customer.shop()
    wanted = blinded(world, [64]).tokens
    account.say(*(withdraw(world, [], coins=wanted) for _ in "12"))
    assert account.hear(messages.Refused).code == "already_signed"
    assert account.hear(messages.Withdrawn).balance == 200 - 64
    wanted = blinded(world, [32]).tokens
    rivals = [swap(world, customer.pay(32), [], blinded=wanted) for _ in "12"]
    session.say(*rivals)
    winner, refused = session.hear(messages.Swapped), session.hear(messages.Refused)
    assert refused.code == "already_signed"
    assert {winner.operation, refused.reference} == {rival.operation for rival in rivals}
    # The coin of the one is spent, that of the other as good as before.
    coin = {rival.operation: rival.coins for rival in rivals}
    with nothing_written(world):
        assert other.refused(swap(world, coin[winner.operation], [16, 16])) == "double_spend"
    other.ask(swap(world, coin[refused.reference], [16, 16]), messages.Swapped)
    assert_books_right(world)


# --- payouts -------------------------------------------------------------------------------------------


def wish(amount: int, payout_id: bytes = b"") -> messages.RequestPayout:
    return messages.RequestPayout(payout_id=payout_id or fresh(), amount=amount, destination="a bank")


def payout_refused(keeper: Shopkeeper, request: messages.RequestPayout) -> str:
    return keeper.ask(request, messages.PayoutRefused).code


def test_payout_beyond_what_is_available_replayed_or_of_other_bytes(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, films = customer.shop(), Shopkeeper(world, "films")
    pending, order = paid(customer, session, keeper, 64), paid(customer, session, keeper, 100)
    assert session.ask(order.confirmed, messages.OrderAnswer).state == "settled"
    with nothing_written(world):
        for amount in (101, 164, config.MAXIMUM_AMOUNT):
            assert payout_refused(keeper, wish(amount)) == "insufficient_funds"
    request = wish(70)
    answer = keeper.ask(request, messages.PayoutAnswer)
    with nothing_written(world):
        assert keeper.ask(request, messages.PayoutAnswer) == answer
        assert payout_refused(keeper, wish(30, request.payout_id)) == "idempotency_conflict"
        assert payout_refused(films, request) == "idempotency_conflict"
        assert payout_refused(keeper, wish(31)) == "insufficient_funds"
        # What is asked for is not there to be given back either.
        assert keeper.refused(gives_back(order, 31)) == "insufficient_funds"
    assert pending.id != order.id
    books = assert_books_right(world)
    assert (books["available:sports"], books["reserved:sports"], books["pending:sports"]) == (30, 70, 64)


# --- another's order -----------------------------------------------------------------------------------


def test_status_of_anothers_order(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session, thief = customer.shop(), customer.shop()
    order = customer.order()
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        for secret in (bytes(32), order.claim_secret, order.place.status_lock):
            question = messages.AskOrder(order_id=order.id, status_secret=secret)
            assert thief.refused(question) == "wrong_secret"
    keeper.say(accept(forward))
    assert session.hear(messages.OrderAnswer).answer
    keeper.hear(messages.OrderOutcome)
    with nothing_written(world):
        # Nor may anybody else have its answer erased, or its place in the broker's memory.
        thief.say(messages.AnswerKept(order_id=order.id, status_secret=bytes(32)))
        assert thief.refused(customer.order(order_id=order.id).place) == "idempotency_conflict"
        assert thief.collect() == []
    assert session.ask(order.asked, messages.OrderAnswer).answer


def test_order_accepted_by_another_merchant(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session, thief = customer.shop(), Shopkeeper(world, "films")
    session.say(customer.order().place)
    forward = keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        thief.say(accept(forward))
        assert session.collect() == []


def test_order_accepted_without_a_word_of_what_was_bought(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    """Nobody could ever show it to anybody; the merchant's next answer counts."""
    customer.shop().say(customer.order().place)
    forward = keeper.hear(messages.ForwardOrder)
    with nothing_written(world):
        keeper.say(messages.AnswerOrder(order_id=forward.order_id, verdict="accepted", answer=b""))
        assert keeper.collect() == []
    keeper.say(accept(forward))
    assert keeper.hear(messages.OrderOutcome).outcome == "captured"


@pytest.fixture
def bazaar(world: World) -> Bazaar:
    bazaar = Bazaar(world)
    bazaar.stock("sports")
    return bazaar


def merchant_rows(world: World) -> list[Any]:
    """Everything but what the merchant reads of its money, by time."""
    by_time = {merchant_schema.counters, merchant_schema.statement_lines}
    with world.merchants["sports"].store.immediate() as tx:
        return [
            [tuple(row.values()) for row in tx.all(sa.select(table))]
            for table in merchant_schema.metadata.sorted_tables
            if table not in by_time
        ]


def test_cells_of_anothers_order(world: World, bazaar: Bazaar) -> None:
    with bazaar.customer() as owner, bazaar.customer() as thief:
        bought = owner.buy_now("sports", "ROUTE", 1, "one")  # paid, and nothing of it delivered yet
        with owner._context.profile.store.immediate() as tx:
            order = orders.load(tx, bytes.fromhex(bought.order_id))
        settle(world)
        before = (entries(world), merchant_rows(world))
        for secret in (bytes(32), order.secrets.status, order.secrets.claim):
            assert cells_taken_with(thief, replace(order, secrets=orders.Secrets(*[secret] * 3))) == []
        assert (entries(world), merchant_rows(world)) == before
    assert_books_right(world)


def cells_taken_with(thief: Market, stolen: orders.Order) -> list[bytes]:
    taken: list[bytes] = []
    fetch = Fetch(stolen, 0, 3, lambda _, cell: taken.append(cell))
    with pytest.raises(RejectedError, match="wrong_secret"):
        thief._shop.at("sports", lambda visit: fetch.run(visit, 3))
    return taken


# --- amounts -------------------------------------------------------------------------------------------


def test_amount_not_equal_to_the_coins(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    paid = customer.pay(100)
    with nothing_written(world):
        for amount in (1, 99, 101, 200, config.MAXIMUM_AMOUNT):
            assert session.refused(customer.order(amount, coins=paid).place) == "wrong_amount"


def test_amount_not_equal_to_the_lines(world: World, bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = drafts.Drafts._seal

    def pay_for_one_and_ask_for_three(self: Any, *arguments: Any) -> Any:
        *outer, basket = arguments
        return seal(
            self, *outer, replace(basket, wanted=[replace(line, quantity=3) for line in basket.wanted])
        )

    monkeypatch.setattr(drafts.Drafts, "_seal", pay_for_one_and_ask_for_three)
    with bazaar.customer() as market:
        before = market.wallet()
        with pytest.raises(RejectedError, match="wrong_amount"):
            market.buy_now("sports", "ROUTE", 1, "one")
        after = market.wallet()
        assert [order.state for order in market.orders()] == ["refunded"]
        assert sum(coin.value * (coin.usable + coin.young) for coin in before.coins) == sum(
            coin.value * (coin.usable + coin.young) for coin in after.coins
        )
    books = assert_books_right(world)
    assert not [book for book in books if book.startswith(("merchant:", "pending:", "available:"))]
    assert books.get("escrow", 0) == 0


@pytest.mark.parametrize("amount", [-1, -100, 0, config.MAXIMUM_AMOUNT + 1, 2**63, 2**64 - 1])
def test_negative_zero_or_overflowing_amount(
    world: World, customer: Customer, keeper: Shopkeeper, amount: int
) -> None:
    session = customer.shop()
    paid = customer.pay(100)
    with nothing_written(world):
        assert dropped(world, session, customer.order(amount, coins=paid).place) == "malformed"
    session.say(customer.order(100, coins=paid).place)
    assert keeper.hear(messages.ForwardOrder).amount == 100


@pytest.mark.parametrize("currency", ["USD", "JPY", "XXX"])
def test_wrong_currency(world: World, customer: Customer, keeper: Shopkeeper, currency: str) -> None:
    session = customer.shop()
    paid = customer.pay(100)
    with nothing_written(world):
        assert session.refused(customer.order(coins=paid, currency=currency).place) == "wrong_currency"
        for malformed in ("", "eur", "EURO", "EU"):
            order = customer.order(coins=paid, currency=malformed)
            assert dropped(world, session, order.place) == "malformed"
