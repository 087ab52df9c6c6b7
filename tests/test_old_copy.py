"""A profile that was put back from an old copy: it counts again what was used, and nothing is paid twice."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from cli import veilmart
from crashing import Crash, crash, last, stepping
from customer_shop import PASSWORD, Bazaar, build, home
from profile_rows import profile_rows
from test_customer_crash import some_or_all
from test_customer_refunds import asked, books

from broker_node import schema as broker_schema
from broker_node import signed_once
from common import clock, coins, config, slots
from common.errors import RejectedError
from common.store import Tx
from customer_node import Market, matching, numbers, old_copy
from customer_node.issuers import issuer_of
from customer_node.refusals import AlreadySignedError, DoubleSpendError
from customer_node.restored import Restored
from customer_node.schema import eras, freed_numbers, issuer_keys, tokens
from customer_node.shop import ShopSession
from customer_node.wallet import Wallet

BUNDLE = 2000


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    yield built
    built.world.close()


def owed(bazaar: Bazaar) -> Counter[int]:
    """Count by value the coins that the broker owes."""
    return Counter(
        {
            int(book.removeprefix("coins:")): amount // int(book.removeprefix("coins:"))
            for book, amount in books(bazaar).items()
            if book.startswith("coins:") and amount
        }
    )


@dataclass
class Disk:
    """A customer's disk, and a copy of the profile on it; what the copy took the place of is kept too."""

    bazaar: Bazaar
    name: str
    """The account's."""
    profile: Path
    copy: Path
    owed_to_others: Counter[int]
    lost: list[Path] = field(default_factory=list)

    def copy_again(self) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.profile, self.copy)

    def put_back(self) -> None:
        self.lost.append(self.profile.rename(self.bazaar.profile(f"{self.name} lost {len(self.lost)}")))
        shutil.copytree(self.copy, self.profile)

    def draw_elsewhere(self, bundles: int = 1) -> None:
        """Draw with the profile as it is, and put the copy back."""
        with self.market() as market:
            logged_in(market, self.name).withdraw(bundles)
        self.put_back()

    def market(self, profile: Path | None = None) -> Market:
        return Market(profile or self.profile, connect=self.bazaar.world.connect)

    def held(self) -> Counter[int]:
        """Count by value the coins on all of the disks that can still be spent, each of them once."""
        values: dict[bytes, int] = {}
        usable = sa.select(tokens.c.counter, issuer_keys).join(issuer_keys)
        usable = usable.where(tokens.c.state.in_(("free", "reserved")), issuer_keys.c.purpose == "coin")
        for profile in (self.profile, *self.lost):
            with Market(profile) as market, market._context.profile.store.immediate() as tx:
                for row in tx.all(usable):
                    mark = coins.mark_of(issuer_of(row), market._context.profile.seed, row["counter"])
                    values[mark] = row["value"]
        with self.bazaar.world.broker.store.immediate() as tx:
            spent = {row["mark"] for row in tx.all(sa.select(broker_schema.spent.c.mark))}
        return Counter(value for mark, value in values.items() if mark not in spent)

    def demand_held(self, amount: int) -> None:
        """Demand that the coins that the broker owes are those on the disks, and come to so much."""
        held = self.held()
        assert owed(self.bazaar) - self.owed_to_others == held
        assert sum(value * count for value, count in held.items()) == amount


@dataclass
class Disks:
    """Makes the disks of a test; `owed` to others is what the broker owed when it began."""

    bazaar: Bazaar
    owed: Counter[int]

    def of(self, market: Market, name: str = "") -> Disk:
        """Close a market, and copy its profile. The account's name is the profile's, or another one."""
        profile = home(market)
        market.close()
        copy = self.bazaar.profile(f"copy of {profile.name}")
        disk = Disk(self.bazaar, name or profile.name, profile, copy, self.owed)
        disk.copy_again()
        return disk

    def of_a_customer(self, balance: int = 0) -> Disk:
        """Copy the profile of somebody who has drawn a bundle, and whose account holds so much then."""
        with self.bazaar.customer(1) as market:
            disk = self.of(market)
        if balance:
            self.bazaar.world.fund(disk.name, balance)
        return disk


@pytest.fixture
def disks(bazaar: Bazaar) -> Disks:
    return Disks(bazaar, owed(bazaar))


def logged_in(market: Market, name: str) -> Market:
    if not market.wallet().logged_in:
        market.log_in(name, PASSWORD)
    return market


def swap(market: Market, coin: int, wanted: list[int]) -> None:
    """Swap a coin for these, whether the wallet needs them or not."""
    funds = market._upkeep._funds

    def begin_and_finish(session: ShopSession) -> None:
        market._context.broker(session.link)
        with market._context.profile.store.immediate() as tx:
            begun = funds._begin(tx, [coin], wanted, slots.month_of(session.now))
        funds.finish(session, begun)

    market._shop.within("swap", begin_and_finish)


def buy_at_last(market: Market, sku: str) -> None:
    """Buy, again and again while a coin turns out to be spent: each such try takes some out of the wallet."""
    for _ in range(10):
        with contextlib.suppress(DoubleSpendError):
            market.buy_now("sports", sku)
            return
    raise AssertionError("spent coins still turn up")


def given_up(market: Market) -> int:
    """Count the tokens that are void."""
    with market._context.profile.store.immediate() as tx:
        void = sa.select(sa.func.count()).select_from(tokens).where(tokens.c.state == "void")
        return int(tx.scalar(void))


# --- drawing, swapping, claiming -----------------------------------------------------------------------


def test_what_is_drawn_again_is_other_coins(disks: Disks) -> None:
    disk = disks.of_a_customer(2 * BUNDLE)
    disk.draw_elsewhere()
    with disk.market() as market:
        drawn = logged_in(market, disk.name).withdraw()
        assert (drawn.amount, drawn.balance, drawn.tickets) == (BUNDLE, 0, coins.BUNDLE_TICKETS)
        assert (market.wallet().usable, market.wallet().tickets) == (2 * BUNDLE, 2 * coins.BUNDLE_TICKETS)
        assert market.wallet().open_operations == 0
        assert given_up(market) > 0
    disk.demand_held(3 * BUNDLE)
    # And they are coins: those that both disks have pay once, the others on either.
    with disk.market() as market:
        for _ in range(3):
            market.buy_now("sports", "PLAN")
    left = 3 * BUNDLE - 3 * 1234
    disk.demand_held(left)
    with disk.market(disk.lost[0]) as market:
        buy_at_last(market, "PLAN")
    disk.demand_held(left - 1234)


def test_tickets_that_are_drawn_again_are_other_tickets(disks: Disks) -> None:
    disk = disks.of_a_customer()
    with disk.market() as market:
        logged_in(market, disk.name)._account.draw_tickets()
        for _ in range(2 * coins.BUNDLE_TICKETS):
            market.show("sports", "ROUTE")
            market.leave_shops()
    disk.put_back()
    with disk.market() as market:
        logged_in(market, disk.name)._account.draw_tickets()
        market.log_out()
        assert market.wallet().tickets == 2 * coins.BUNDLE_TICKETS
        with pytest.raises(RejectedError, match="spent before"):
            market.show("sports", "ROUTE")
        # Those of before are found to be used; the new ones open as many sessions.
        for _ in range(coins.BUNDLE_TICKETS):
            market.show("sports", "ROUTE")
            market.leave_shops()
        assert market.wallet().tickets == 0


def test_what_is_swapped_for_is_other_coins(disks: Disks) -> None:
    disk = disks.of_a_customer(BUNDLE)
    disk.draw_elsewhere()
    with disk.market() as market:
        swap(market, 512, [256, 128, 64, 32, 16, 16])
        swap(market, 16, [8, 4, 2, 1, 1])
        assert (market.wallet().usable, market.wallet().reserved) == (BUNDLE, 0)
        assert market.wallet().open_operations == 0
        assert given_up(market) > 0
        # The numbers that were refused leave no trace at the broker: they rest, and are given again.
        resting = profile_rows(disk.profile, freed_numbers.c.number)
        assert len(resting) == len(set(resting)) > 0
    disk.demand_held(2 * BUNDLE)
    with disk.market() as market:
        market.buy_now("sports", "PLAN")
    disk.demand_held(2 * BUNDLE - 1234)


def test_numbers_and_counters_that_were_used_are_both_passed_by(disks: Disks) -> None:
    disk = disks.of_a_customer(BUNDLE)
    with disk.market() as market:
        for value in (512, 256, 128):
            swap(market, value, [value // 2, value // 4, value // 4])
        logged_in(market, disk.name).withdraw()
    disk.put_back()
    with disk.market() as market:
        swap(market, 64, [32, 16, 16])
    disk.demand_held(2 * BUNDLE)
    with disk.market() as market:
        # What the other disk has swapped is found out, and costs nothing.
        buy_at_last(market, "ROUTE")
        assert market.wallet().reserved == 0
    disk.demand_held(2 * BUNDLE - 77)


def test_what_is_claimed_is_other_coins(bazaar: Bazaar, disks: Disks) -> None:
    with bazaar.customer(1) as market:
        order_id = market.buy_now("sports", "ROUTE").order_id
        disk = disks.of(market)
    bazaar.world.fund(disk.name, BUNDLE)
    disk.draw_elsewhere()
    assert asked(bazaar, order_id, 30).state == "done"
    with disk.market() as market:
        shown = market.ask(order_id)
        assert (shown.refunded, shown.claimed) == (30, 30)
        assert market.wallet().usable == BUNDLE - 77 + 30
        assert given_up(market) > 0
    disk.demand_held(2 * BUNDLE - 77 + 30)
    assert books(bazaar).get("escrow", 0) == 0


@contextmanager
def restored(bazaar: Bazaar, profile: str, first: Disk, spelled: Sequence[str]) -> Iterator[Market]:
    """The wallet of another disk, brought back whole from its words into a profile of its own."""
    folder = bazaar.profile(profile)
    Market.restore(folder, bazaar.world.market_path, " ".join(spelled))
    with Market(folder, connect=bazaar.world.connect) as market:
        market.log_in(first.name, PASSWORD)
        assert market.recover(first.name).complete
        yield market


def test_what_a_restored_wallet_claims_is_other_coins(
    bazaar: Bazaar, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(1) as market:
        order_id, spelled = market.buy_now("sports", "ROUTE").order_id, market.words()
        first = disks.of(market)
    with restored(bazaar, "restored", first, spelled) as market:
        disk = disks.of(market, first.name)
        disk.lost.append(first.profile)
    bazaar.world.fund(first.name, BUNDLE)
    with disk.market() as market:
        market.log_in(first.name, PASSWORD)
        market.withdraw()
    disk.put_back()
    assert asked(bazaar, order_id, 30).state == "done"
    left_out: list[int] = []
    leave_out = Wallet.leave_out

    def noted(wallet: Wallet, tx: Tx, month: str, count: int) -> None:
        left_out.append(count)
        leave_out(wallet, tx, month, count)

    monkeypatch.setattr(Wallet, "leave_out", noted)
    monkeypatch.setattr(config, "MAXIMUM_COINS", 2)
    with disk.market() as market:
        shown = market.recover(refunds=True)
        assert shown.complete, shown
        assert [order.claimed for order in shown.orders] == [30]
        assert given_up(market) > 0
    # Before each of the claims: a refused one, the same in other coins, and the rest of it. None in vain.
    assert left_out == [0, 1, 0]
    disk.demand_held(2 * BUNDLE - 77 + 30)


def test_many_counters_are_passed_in_few_tries(bazaar: Bazaar, disks: Disks) -> None:
    disk = disks.of_a_customer()
    with disk.market() as market:
        seed = market._context.profile.seed
        with market._context.profile.store.immediate() as tx:
            row = tx.all(sa.select(issuer_keys).where(issuer_keys.c.value == 256))[-1]
        key, used = issuer_of(row), range(row["next_counter"], row["next_counter"] + 120)
        marks = signed_once.marks_of({key.key_id: key}, [coins.blind_token(key, seed, n) for n in used])
        with bazaar.world.broker.store.immediate() as tx:
            signed_once.note(tx, marks)
        swap(market, 512, [256, 256])
        assert len(profile_rows(disk.profile, freed_numbers.c.number)) < old_copy.MOST_TRIES
    disk.demand_held(BUNDLE)


# --- it ends somewhere ---------------------------------------------------------------------------------


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_copy, "MOST_TRIES", 1)


def test_what_was_drawn_too_often_elsewhere_is_told(
    bazaar: Bazaar, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(1) as market:
        order_id = market.buy_now("sports", "ROUTE").order_id
        disk = disks.of(market)
    bazaar.world.fund(disk.name, 4 * BUNDLE)
    disk.draw_elsewhere(3)
    assert asked(bazaar, order_id, 30).state == "done"
    worth = 4 * BUNDLE - 77
    with disk.market() as market:
        logged_in(market, disk.name)
        with monkeypatch.context() as patched:
            impatient(patched)
            for attempt in (
                market.withdraw,
                lambda: swap(market, 512, [256, 128, 64, 32, 16, 16]),
                lambda: market.ask(order_id),
            ):
                with pytest.raises(AlreadySignedError, match="Nothing was paid") as told:
                    attempt()
                assert "wallet restore" in told.value.hint
                assert told.value.code == "rejected"
                wallet = market.wallet()
                assert (wallet.usable, wallet.reserved, wallet.open_operations) == (BUNDLE - 77, 0, 0)
                logged_in(market, disk.name)
        assert (market.balance().amount, books(bazaar)["escrow"]) == (BUNDLE, 30)
        market.log_out()
    disk.demand_held(worth)
    with disk.market() as market:
        # Each further call goes on where the last one ended.
        logged_in(market, disk.name).withdraw()
        swap(market, 512, [256, 128, 64, 32, 16, 16])
        market.ask(order_id)
        assert market.wallet().usable == 2 * BUNDLE - 77 + 30
    disk.demand_held(worth + BUNDLE + 30)


def test_a_swap_that_gets_no_further_number_keeps_its_coins(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disks.of_a_customer(BUNDLE)
    disk.draw_elsewhere()
    monkeypatch.setattr(numbers, "MOST_UNTRACED", 1)
    with disk.market() as market:
        for _ in range(2):
            with pytest.raises(RejectedError, match="last 1 swaps") as told:
                swap(market, 512, [256, 128, 64, 32, 16, 16])
            # Trying again at once would not go on.
            assert "ten minutes" in told.value.hint
            wallet = market.wallet()
            assert (wallet.usable, wallet.reserved, wallet.open_operations) == (BUNDLE, 0, 0)
    disk.demand_held(2 * BUNDLE)


def test_many_tries_leave_out_less_than_a_restored_wallet_looks_over() -> None:
    tries, left_out = old_copy.Tries(), 0
    while not tries.over:
        left_out += tries.left_out + config.MAXIMUM_COINS
        tries.count()
    assert left_out - old_copy.MOST_TRIES * config.MAXIMUM_COINS == 127
    assert left_out + matching.WINDOW < matching.WIDEST


# --- crashes -------------------------------------------------------------------------------------------


def use(market: Market, name: str) -> None:
    logged_in(market, name).withdraw()
    swap(market, 512, [256, 128, 64, 32, 16, 16])


@some_or_all(7)
def test_an_old_copy_survives_a_crash_anywhere(bazaar: Bazaar, disks: Disks, every: int) -> None:
    disk = disks.of_a_customer()
    died, held = 0, BUNDLE
    for number in itertools.count(every, every):
        bazaar.world.fund(disk.name, 2 * BUNDLE)
        disk.copy_again()
        disk.draw_elsewhere()
        with disk.market() as market, stepping(market, last(number, crash)):
            try:
                use(market, disk.name)
                break
            except Crash:
                died += 1
        with disk.market() as market:
            logged_in(market, disk.name)
            assert [each.error for each in market.resume() if each.error] == []
            assert (market.wallet().open_operations, market.wallet().reserved) == (0, 0)
            if market.balance().amount:
                market.withdraw()
            assert market.balance().amount == 0
            market.log_out()
        held += 2 * BUNDLE
        disk.demand_held(held)
    assert died * every > 20


# --- back from words -----------------------------------------------------------------------------------


def test_an_old_copy_gets_back_what_the_other_one_drew(
    bazaar: Bazaar, disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disks.of_a_customer(3 * BUNDLE)
    disk.draw_elsewhere()
    with disk.market() as market:
        logged_in(market, disk.name).withdraw()
        assert market.wallet().usable == 2 * BUNDLE
        before = given_up(market)
    # As the error and the threat model advise.
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    (tmp_path / "password").write_text(PASSWORD)
    given = ("wallet", "restore", bazaar.world.market_path, disk.name, "--password-file")
    ran = veilmart(*given, tmp_path / "password", "--json", VEILMART_PROFILE=str(disk.profile))
    assert (ran.data["complete"], ran.data["unmatched"]) == (True, 0)
    with disk.market() as market:
        assert market.wallet().usable == 3 * BUNDLE
        # It goes on behind all of it, in an era of its own.
        left = given_up(market)
        assert left < before
        market.withdraw()
        swap(market, 512, [256, 128, 64, 32, 16, 16])
        assert given_up(market) == left
        assert market.wallet().usable == 4 * BUNDLE
        # Whoever restores that one begins to look where its era begins.
        of_eras = {numbers.split_counter(*row) for row in profile_rows(disk.profile, tokens.c.counter)}
        assert {era for era, count in of_eras if count == 0} == {era for era, _ in of_eras}
        assert len({era for era, _ in of_eras}) == 2
    disk.demand_held(4 * BUNDLE)


def test_what_the_other_copy_drew_comes_back_though_the_same_is_asked_for(disks: Disks) -> None:
    """A withdrawal that was begun and not answered wants the very coins that restoring brings."""
    disk = disks.of_a_customer(3 * BUNDLE)
    disk.draw_elsewhere()
    with disk.market() as market:
        account = logged_in(market, disk.name)._account
        account.within(lambda session: account._begin(session, coins.BUNDLE, coins.BUNDLE_TICKETS))
        shown = market.recover(disk.name)
        assert (shown.error, shown.complete, shown.unmatched) == (None, True, 0)
        # Its own, the other copy's, and what it asked for in other coins.
        assert (market.wallet().usable, market.wallet().open_operations) == (3 * BUNDLE, 0)
    disk.lost.clear()
    disk.demand_held(3 * BUNDLE)
    with disk.market() as market:
        for _ in range(4):
            market.buy_now("sports", "PLAN")
    disk.demand_held(3 * BUNDLE - 4 * 1234)


def test_what_the_other_copy_swapped_for_comes_back_though_the_same_is_asked_for(disks: Disks) -> None:
    """The swap has the other copy's number too: it goes on under another one, in other coins."""
    disk = disks.of_a_customer(BUNDLE)
    with disk.market() as market:
        swap(market, 512, [256, 128, 64, 32, 16, 16])
    disk.put_back()
    with disk.market() as market:
        with market._context.profile.store.immediate() as tx:
            market._upkeep._funds._begin(tx, [256], [128, 64, 32, 16, 16], slots.month_of(clock.now_ms()))
        logged_in(market, disk.name)
        shown = market.recover(disk.name)
        assert (shown.error, shown.complete, shown.unmatched) == (None, True, 0)
        market.log_out()
        assert [each.error for each in market.resume() if each.error] == []
        assert (market.wallet().reserved, market.wallet().open_operations) == (0, 0)
        # The coin of 512 is out: it is in none of the totals yet.
        assert market.wallet().usable == BUNDLE + 512
    disk.lost.clear()
    disk.demand_held(BUNDLE)


def test_an_old_copy_of_a_restored_wallet_gets_back_what_the_other_one_drew(
    bazaar: Bazaar, disks: Disks
) -> None:
    with bazaar.customer(1) as market:
        spelled, first = market.words(), disks.of(market)
    bazaar.world.fund(first.name, 3 * BUNDLE)
    with restored(bazaar, "restored too", first, spelled) as market:
        disk = disks.of(market, first.name)
    disk.draw_elsewhere()
    with disk.market() as market:
        market.log_in(disk.name, PASSWORD)
        assert market.recover(disk.name).complete
        assert market.wallet().usable == 2 * BUNDLE
        market.withdraw()
        assert given_up(market) == 0
    disk.demand_held(3 * BUNDLE)


def test_an_old_copy_of_a_restored_wallet_gets_back_what_the_other_one_swapped_for(
    bazaar: Bazaar, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its searches are at their end, and its own era is not among them: it begins anew."""
    with bazaar.customer(1) as market:
        spelled, first = market.words(), disks.of(market)
    with restored(bazaar, "restored and swapped", first, spelled) as market:
        market.log_out()
        swap(market, 128, [64, 64])
        disk = disks.of(market, first.name)
    with disk.market() as market:
        swap(market, 512, [256, 128, 64, 32, 16, 16])
        order_id = market.buy_now("sports", "ROUTE").order_id
        swapped = market.wallet().usable
    disk.put_back()

    def fail(_: Restored) -> None:
        raise RejectedError("Not now.")

    with disk.market() as market:
        market.log_in(disk.name, PASSWORD)
        with monkeypatch.context() as patched:
            patched.setattr(Restored, "match_rest", fail)
            assert isinstance(market.recover(disk.name).error, RejectedError)
        # Whatever stops it, the next call goes on.
        shown = market.recover(disk.name)
        assert shown.complete, shown
        assert order_id in {order.order_id for order in shown.orders}
        # What came out of the swaps is there. What went into them is too, until it is shown.
        usable = market.wallet().usable
        assert usable >= BUNDLE + 512
        # It goes on in a further era, and what it asked for in vain is not used again.
        market.log_out()
        swap(market, 32, [16, 16])
        # Asking about refunds begins nothing.
        before = profile_rows(disk.profile, eras.c.era)
        market.log_in(disk.name, PASSWORD)
        assert market.recover(disk.name, refunds=True).complete
        assert profile_rows(disk.profile, eras.c.era) == before
        assert (len(before), market.wallet().usable) == (2, usable)
    disk.lost.clear()
    disk.demand_held(swapped)


def test_words_bring_back_what_both_copies_drew_and_look_over_what_is_void(
    bazaar: Bazaar, disks: Disks
) -> None:
    disk = disks.of_a_customer(3 * BUNDLE)
    with disk.market() as market:
        spelled = market.words()
    disk.draw_elsewhere()
    with disk.market() as market:
        logged_in(market, disk.name).withdraw()
        swap(market, 512, [256, 128, 64, 32, 16, 16])
        # As many as a wallet gives up that has lost its way.
        with market._context.profile.store.immediate() as tx:
            market._context.wallet.leave_out(tx, slots.month_of(clock.now_ms()), matching.WINDOW + 8)
        market.withdraw()
    profile = bazaar.profile("new disk")
    Market.restore(profile, bazaar.world.market_path, " ".join(spelled))
    disk.lost.append(disk.profile)
    disk.profile = profile
    before = disk.held()
    with disk.market() as market:
        market.log_in(disk.name, PASSWORD)
        shown = market.recover(disk.name)
        assert shown.complete, shown
        assert shown.unmatched == 0
        # One of them was swapped, which is published with the next totals, or found out when it is shown.
        assert market.wallet().usable == 4 * BUNDLE + 512
    disk.lost.clear()
    assert disk.held() == before
    disk.demand_held(4 * BUNDLE)
