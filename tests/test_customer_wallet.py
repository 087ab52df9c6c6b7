"""The wallet: exact payment, change, counters that are never used twice, and coins that are never lost."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common import coins
from common.blind import BlindPrivateKey
from common.clock import random_bytes
from common.config import DAY_MS, MAXIMUM_COINS
from common.errors import InsufficientFundsError, RejectedError, UntrustedError
from common.messages import IssuerKey, Swap, Swapped
from common.slots import month_of, month_start
from common.states import UnlistedStepError
from common.store import Store
from customer_node import numbers
from customer_node.change import change_for, refund_coins
from customer_node.funds import Funds
from customer_node.issuers import learn
from customer_node.profile import open_store
from customer_node.refusals import DoubleSpendError
from customer_node.wallet import TICKET, Wallet

NOW = 1_800_014_400_000
MONTH = month_of(NOW)
SEED = bytes(range(32))
TOP = 2**14

holdings = st.dictionaries(st.integers(0, 14).map(lambda n: 2**n), st.integers(1, 6), max_size=15)


@given(holdings, st.integers(1, 40_000))
def test_a_swap_makes_every_affordable_amount_payable(held: dict[int, int], amount: int):
    total = sum(value * count for value, count in held.items())
    if total < amount:
        with pytest.raises(InsufficientFundsError):
            change_for(amount, held, TOP)
        return
    given_coins, wanted = change_for(amount, held, TOP)
    assert sum(given_coins) == sum(wanted)
    assert max(len(given_coins), len(wanted)) <= MAXIMUM_COINS
    after = Counter(held)
    after.subtract(Counter(given_coins))
    assert min(after.values(), default=0) >= 0
    after.update(Counter(wanted))
    assert coins.exact({value: count for value, count in after.items() if count}, amount) is not None


def test_many_small_coins_are_swapped_into_few():
    held = {1: 500}
    for _ in range(16):
        given_coins, wanted = change_for(300, held, TOP)
        if not given_coins:
            break
        counts = Counter(held)
        counts.subtract(Counter(given_coins))
        counts.update(Counter(wanted))
        held = dict(+counts)
    exact = coins.exact(held, 300)
    assert exact is not None
    assert len(exact) <= MAXIMUM_COINS


def test_an_amount_that_no_order_can_carry_is_refused():
    with pytest.raises(RejectedError, match="too many coins"):
        change_for(70 * TOP, {TOP: 100}, TOP)


@given(st.integers(1, MAXIMUM_COINS * TOP), holdings)
def test_a_refund_has_its_amount_in_coins_that_fit(amount: int, held: dict[int, int]):
    values = refund_coins(amount, held, TOP)
    assert sum(values) == amount
    assert all(value <= TOP for value in values)


# --- with real signatures ------------------------------------------------------------------------------


class Mint:
    """Keys of a few denominations, and the ticket key; made once, since RSA keys are slow to make."""

    def __init__(self) -> None:
        self.private: dict[bytes, BlindPrivateKey] = {}
        self.keys: list[IssuerKey] = []
        for purpose, value in (("coin", 1), ("coin", 2), ("coin", 4), ("ticket", 0)):
            private = BlindPrivateKey.generate()
            self.private[private.public.key_id] = private
            self.keys.append(issuer(private, purpose, value))

    def february(self) -> list[IssuerKey]:
        """The coin keys of the month after, made when first asked for."""
        if len(self.keys) == 4:
            for value in (1, 2, 4):
                private = BlindPrivateKey.generate()
                self.private[private.public.key_id] = private
                key = issuer(private, "coin", value)
                self.keys.append(msgspec.structs.replace(key, month="2027-02"))
        return self.keys[4:]

    def sign(self, blinded: list[coins.BlindedToken]) -> list[bytes]:
        return [self.private[token.key_id].blind_sign(token.blinded) for token in blinded]


def issuer(private: BlindPrivateKey, purpose: str, value: int) -> IssuerKey:
    public = private.public
    return IssuerKey(
        key_id=public.key_id,
        purpose=purpose,  # type: ignore[arg-type]
        value=value,
        month=MONTH,
        public=public.der,
    )


_mints: list[Mint] = []


def the_mint() -> Mint:
    if not _mints:
        _mints.append(Mint())
    return _mints[0]


@pytest.fixture
def store(tmp_path: Path):
    opened = open_store(tmp_path, SEED, random_bytes)
    yield opened
    opened.close()


def draw(store: Store, wallet: Wallet, operation: bytes, wanted: list[tuple[coins.Purpose, int]]):
    with store.immediate() as tx:
        learn(tx, the_mint().keys)
        blinded = wallet.draw(tx, operation, wanted, MONTH)
        wallet.begin_operation(tx, operation, "withdraw", b"request", NOW)
    return blinded


def test_tokens_come_out_verified_and_can_be_spent(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    blinded = draw(store, wallet, bytes(16), [("coin", 4), ("coin", 1), ("coin", 1), TICKET])
    with store.immediate() as tx:
        wallet.issue(tx, bytes(16), the_mint().sign(blinded), NOW)
        assert wallet.held(tx, NOW) == {4: 1, 1: 2}
        tokens = wallet.reserve(tx, b"o" * 16, [4, 1], NOW)
        ticket = wallet.reserve_ticket(tx, b"s" * 16, NOW)
    by_id = {key.key_id: key for key in the_mint().keys}
    assert ticket is not None
    marks = {coins.verify_token(by_id[token.key_id], token) for token in [*tokens, ticket]}
    assert len(marks) == 3


def test_coins_are_shown_in_no_order_of_the_wallets(store: Store):
    wallet = Wallet(SEED, allow_young=True)
    blinded = draw(store, wallet, bytes(16), [("coin", 1)] * 6)
    with store.immediate() as tx:
        wallet.issue(tx, bytes(16), the_mint().sign(blinded), NOW)
        tokens = wallet.reserve(tx, b"o" * 16, [1] * 6, NOW)
    serials = [token.serial for token in tokens]
    assert serials == sorted(serials), "as random as serials are"


def test_young_coins_wait_unless_they_are_allowed(store: Store):
    careful, hasty = Wallet(SEED, allow_young=False), Wallet(SEED, allow_young=True)
    blinded = draw(store, careful, bytes(16), [("coin", 4), TICKET])
    with store.immediate() as tx:
        careful.issue(tx, bytes(16), the_mint().sign(blinded), NOW + 1000)
        assert careful.held(tx, NOW) == {}
        assert careful.reserve_ticket(tx, b"s" * 16, NOW) is None
        assert careful.held(tx, NOW + 1000) == {4: 1}
        assert hasty.held(tx, NOW) == {4: 1}
        stock, until = careful.stock(tx, NOW)
        assert stock["coin", 4].young == 1
        assert until == NOW + 1000


def test_coins_of_a_month_that_is_over_are_not_offered(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    blinded = draw(store, wallet, bytes(16), [("coin", 4)])
    with store.immediate() as tx:
        wallet.issue(tx, bytes(16), the_mint().sign(blinded), NOW)
        much_later = NOW + 100 * 86_400_000
        assert wallet.held(tx, much_later) == {}
        assert wallet.stock(tx, much_later)[0]["coin", 4].expired == 1


def test_coins_of_a_month_that_has_not_begun_here_count(store: Store):
    """The broker signs with the present month's keys alone: this machine's clock is behind its."""
    wallet = Wallet(SEED, allow_young=False)
    blinded = draw(store, wallet, bytes(16), [("coin", 4), TICKET])
    behind = month_start(MONTH) - 60_000
    with store.immediate() as tx:
        wallet.issue(tx, bytes(16), the_mint().sign(blinded), behind)
        assert wallet.held(tx, behind) == {4: 1}
        assert wallet.stock(tx, behind)[0]["coin", 4].usable == 1
        assert wallet.ending(tx, behind) == {}
        assert wallet.ending_tickets(tx, behind) == 0


def test_a_wrong_signature_changes_nothing(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    blinded = draw(store, wallet, bytes(16), [("coin", 4), ("coin", 1)])
    signatures = the_mint().sign(blinded)
    for wrong in (signatures[::-1], signatures[:1], [signatures[0], bytes(256)]):
        with pytest.raises(UntrustedError), store.immediate() as tx:
            wallet.issue(tx, bytes(16), wrong, NOW)
    with store.immediate() as tx:
        assert wallet.held(tx, NOW) == {}
        wallet.issue(tx, bytes(16), signatures, NOW)
        assert wallet.held(tx, NOW) == {4: 1, 1: 1}


def test_a_second_key_for_a_slot_is_refused(store: Store):
    second = issuer(BlindPrivateKey.generate(), "coin", 4)
    with store.immediate() as tx:
        learn(tx, the_mint().keys)
    with pytest.raises(UntrustedError, match="second"), store.immediate() as tx:
        learn(tx, [second])


def test_one_key_for_two_values_is_refused(store: Store):
    once = the_mint().keys[0]
    twice = msgspec.structs.replace(once, value=8)
    with pytest.raises(UntrustedError, match="one key for two"), store.immediate() as tx:
        learn(tx, [once, twice])


def test_an_answered_operation_cannot_end_again(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    draw(store, wallet, bytes(16), [("coin", 4)])
    with store.immediate() as tx:
        wallet.end_operation(tx, bytes(16), "refused")
    with pytest.raises(UnlistedStepError), store.immediate() as tx:
        wallet.end_operation(tx, bytes(16), "done")


def test_a_ticket_that_was_never_answered_is_shown_again(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    blinded = draw(store, wallet, bytes(16), [TICKET, TICKET])
    with store.immediate() as tx:
        wallet.issue(tx, bytes(16), the_mint().sign(blinded), NOW)
        first = wallet.reserve_ticket(tx, b"1" * 16, NOW)
        again = wallet.reserve_ticket(tx, b"2" * 16, NOW)
        assert first == again
        wallet.spend(tx, b"1" * 16)
        assert wallet.reserve_ticket(tx, b"3" * 16, NOW) == first
        wallet.spend(tx, b"3" * 16)
        other = wallet.reserve_ticket(tx, b"4" * 16, NOW)
        assert other not in (None, first)


FEBRUARY_20 = int(datetime(2027, 2, 20, tzinfo=UTC).timestamp() * 1000)
FEBRUARY_22 = FEBRUARY_20 + 2 * DAY_MS


class Till:
    """The broker's side of a swap, as an open session shows it."""

    link = None

    def __init__(self, now: int, spent: frozenset[bytes] = frozenset()) -> None:
        self.now = now
        self.spent = spent
        self.taken: list[list[int]] = []

    def ask(self, question: Swap, kind: type[Swapped], _timeout_ms: int) -> Swapped:
        values = {key.key_id: key.value for key in the_mint().keys}
        if any(coin.serial in self.spent for coin in question.coins):
            raise DoubleSpendError("spent before")
        given = [values[coin.key_id] for coin in question.coins]
        assert sum(given) == sum(values[token.key_id] for token in question.blinded)
        self.taken.append(given)
        return kind(operation=question.operation, signatures=the_mint().sign(question.blinded))


def january_coins(store: Store, wallet: Wallet) -> None:
    wanted: list[tuple[coins.Purpose, int]] = [("coin", 4), ("coin", 1), ("coin", 1)]
    blinded = draw(store, wallet, bytes(16), wanted)
    with store.immediate() as tx:
        wallet.issue(tx, bytes(16), the_mint().sign(blinded), NOW)
        learn(tx, the_mint().february())


def funds_at(store: Store, wallet: Wallet, now: int) -> Funds:
    numbers = count(1)
    context = SimpleNamespace(
        profile=SimpleNamespace(store=store),
        wallet=wallet,
        clock=lambda: now,
        random=lambda size: next(numbers).to_bytes(size, "big"),
        timeout_ms=1000,
        broker=lambda _link: None,
    )
    return Funds(context)  # type: ignore[arg-type]  # what a swap needs of it


def test_coins_in_their_last_week_are_swapped_in_time(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    january_coins(store, wallet)
    with store.immediate() as tx:
        assert wallet.ending(tx, NOW) == wallet.ending(tx, FEBRUARY_20) == {}
        assert wallet.ending(tx, FEBRUARY_22) == {4: 1, 1: 2}
    funds, till = funds_at(store, wallet, FEBRUARY_22), Till(FEBRUARY_22)
    assert funds.ending()
    funds.renew(till)  # type: ignore[arg-type]
    assert [sorted(each, reverse=True) for each in till.taken] == [[4, 1, 1]]
    assert not funds.ending()
    march = FEBRUARY_22 + 10 * DAY_MS
    with store.immediate() as tx:
        held = wallet.held(tx, march)
    assert sum(value * number for value, number in held.items()) == 6


def test_a_spent_coin_does_not_keep_others_from_being_swapped(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    january_coins(store, wallet)
    with store.immediate() as tx:
        (spent,) = wallet.reserve(tx, b"o" * 16, [4], NOW)
        wallet.release(tx, b"o" * 16)
    till = Till(FEBRUARY_22, frozenset({spent.serial}))
    funds_at(store, wallet, FEBRUARY_22).renew(till)  # type: ignore[arg-type]
    assert till.taken == [[1], [1]]
    with store.immediate() as tx:
        assert sum(wallet.held(tx, FEBRUARY_22).values()) == 2
        assert wallet.ending(tx, FEBRUARY_22) == {}


def test_coins_in_their_last_week_pay_first(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    january_coins(store, wallet)
    with store.immediate() as tx:
        blinded = wallet.draw(tx, b"f" * 16, [("coin", 2)], "2027-02")
        wallet.begin_operation(tx, b"f" * 16, "withdraw", b"request", NOW)
        wallet.issue(tx, b"f" * 16, the_mint().sign(blinded), NOW)
        values = {key.key_id: key.value for key in the_mint().keys}
        for now, paid in ((FEBRUARY_20, [2]), (FEBRUARY_22, [1, 1])):
            tokens = funds_at(store, wallet, now).reserve(tx, b"o" * 16, 2)
            assert [values[token.key_id] for token in tokens] == paid
            wallet.release(tx, b"o" * 16)


class WalletMachine(RuleBasedStateMachine):
    """Draws, answers, reservations and crashes in any order: no coin is lost, none is made."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.wallet = Wallet(SEED, allow_young=False)
        self.open_store()
        self.unanswered: dict[bytes, tuple[list[coins.BlindedToken], int]] = {}
        self.holders: dict[bytes, int] = {}
        self.seen: set[bytes] = set()
        self.drawn = self.spent = self.number = 0

    def open_store(self) -> None:
        self.store = open_store(Path(self.folder.name), SEED, random_bytes)

    def name(self) -> bytes:
        self.number += 1
        return self.number.to_bytes(16, "big")

    @rule(values=st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=4))
    def draws(self, values: list[int]) -> None:
        operation = self.name()
        blinded = draw(self.store, self.wallet, operation, [("coin", value) for value in values])
        for token in blinded:
            assert token.blinded not in self.seen, "a counter was used twice"
            self.seen.add(token.blinded)
        self.unanswered[operation] = (blinded, sum(values))

    @precondition(lambda self: self.unanswered)
    @rule()
    def is_answered(self) -> None:
        operation, (blinded, amount) = self.unanswered.popitem()
        with self.store.immediate() as tx:
            self.wallet.issue(tx, operation, the_mint().sign(blinded), NOW)
        self.drawn += amount

    @precondition(lambda self: self.unanswered)
    @rule()
    def is_refused(self) -> None:
        operation, _ = self.unanswered.popitem()
        with self.store.immediate() as tx:
            self.wallet.end_operation(tx, operation, "refused")

    @rule(amount=st.integers(1, 12))
    def reserves(self, amount: int) -> None:
        holder = self.name()
        with self.store.immediate() as tx:
            values = coins.exact(self.wallet.held(tx, NOW), amount)
            if values is None:
                return
            self.wallet.reserve(tx, holder, values, NOW)
        self.holders[holder] = amount

    @precondition(lambda self: self.holders)
    @rule(outcome=st.sampled_from(["spend", "release", "pass on"]))
    def settles(self, outcome: str) -> None:
        holder, amount = self.holders.popitem()
        with self.store.immediate() as tx:
            if outcome == "spend":
                self.wallet.spend(tx, holder)
                self.spent += amount
            elif outcome == "release":
                self.wallet.release(tx, holder)
            else:
                other = self.name()
                for row in self.wallet.reserved_for(tx, holder):
                    self.wallet.pass_on(tx, row, other)
                self.holders[other] = amount

    @rule()
    def crashes(self) -> None:
        self.store.close()
        self.open_store()

    @invariant()
    def money_is_conserved(self) -> None:
        with self.store.immediate() as tx:
            free = sum(value * count for value, count in self.wallet.held(tx, NOW).items())
            assert self.wallet.reserved(tx) == sum(self.holders.values())
        assert free + sum(self.holders.values()) == self.drawn - self.spent

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


WalletMachine.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWalletMachine = WalletMachine.TestCase


def test_a_number_that_was_given_back_is_given_again_in_time(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    with store.immediate() as tx:
        first, second, third = (wallet.new_id(tx, "swap", MONTH, NOW) for _ in range(3))
        wallet.give_back(tx, "swap", second, NOW + 1)
        fourth = wallet.new_id(tx, "swap", MONTH, NOW)
        assert fourth not in {first, second, third}
        assert wallet.new_id(tx, "order", MONTH, NOW + 1) not in {first, second, third, fourth}
        assert wallet.new_id(tx, "swap", MONTH, NOW + 1) == second
        assert wallet.new_id(tx, "swap", MONTH, NOW + 1) not in {first, second, third, fourth}


def test_a_hole_in_the_numbers_never_grows_wider_than_a_search(store: Store):
    wallet = Wallet(SEED, allow_young=False)
    with store.immediate() as tx:
        refused = [wallet.new_id(tx, "swap", MONTH, NOW) for _ in range(numbers.MOST_UNTRACED)]
        for each in refused:
            wallet.give_back(tx, "swap", each, NOW + 1)
        with pytest.raises(RejectedError, match="refused or did not answer"):
            wallet.new_id(tx, "swap", MONTH, NOW)
        assert wallet.other_id(tx, "swap", MONTH, 0) not in refused
        assert {wallet.new_id(tx, "swap", MONTH, NOW + 1) for _ in refused} == {*refused}
    assert numbers.MOST_UNTRACED + numbers.MOST_SKIPPED < numbers.GAP
