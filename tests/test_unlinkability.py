"""Whoever holds the mint cannot say who drew a coin or a ticket that is used.

Twenty customers draw bundles with the real wallet and the real broker; then a thousand of their coins and two
hundred of their tickets are used, each session for one of them. The adversary has the broker's whole store,
files, memory and log, everything that it received and sent, decrypted, and the mint's private keys. Times are
left out, and the order in which things happened with them: what they give away is for `docs/threat-model.md`.

That the adversary can see is shown with wallets that can be linked: it recognises each of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import gmpy2
import linking
import pytest
import sqlalchemy as sa
from client import SEALED, Order, Session, Shopkeeper, blinded, fresh
from linking import Issue, Result, Sight, Use, attempt, best
from record import Record
from recorder import recording
from world import World

from common import blind, clock, coins, config, messages, topics
from common.blind import BlindPrivateKey
from customer_node import Market, schema
from veilmart.evidence import shared

ACCOUNTS = 20
BUNDLES = 4
SESSIONS_EACH = 10
COINS_EACH = 5
"""In each session."""
PASSWORD = "a long enough password"


@dataclass(frozen=True)
class Drawn:
    """What a customer's wallet holds after it has drawn."""

    coins: list[messages.Token]
    tickets: list[messages.Token]
    answers: dict[bytes, bytes]
    """Serial -> the blind signature that the token came out of."""


@dataclass(frozen=True)
class Crowd:
    """A market after its customers have drawn and used: what the adversary sees, and what is true."""

    record: Record
    coins: Sight
    tickets: Sight
    owners: dict[bytes, int]
    """Serial -> account."""
    answers: dict[bytes, bytes]
    """Serial -> blind signature."""

    def truth(self, sight: Sight) -> list[int]:
        return [self.owners[use.token.serial] for use in sight.uses]

    @cached_property
    def factors(self) -> list[tuple[int, BlindPrivateKey]]:
        """The true blinding factor of every token that was used, and the key that signed it."""
        found = []
        for each in (*self.coins.uses, *self.tickets.uses):
            key = self.coins.keys[each.token.key_id]
            answer, signature = self.answers[each.token.serial], int.from_bytes(each.token.signature)
            inverse = gmpy2.invert(signature, key.public.modulus)
            found.append((int(int.from_bytes(answer) * inverse % key.public.modulus), key))
        return found


def draw(world: World, name: str) -> Drawn:
    """Let a customer's own wallet draw, and look what it has."""
    with world.customer(name) as market:
        market.sign_up(name, PASSWORD)
        world.fund(name, BUNDLES * sum(coins.BUNDLE))
        market.withdraw(BUNDLES)
        market.log_out()
        money, entry = tokens_of(market, "coin"), tokens_of(market, "ticket")
        return Drawn(list(money), list(entry), {t.serial: answer for t, answer in {**money, **entry}.items()})


def tokens_of(market: Market, purpose: str) -> dict[messages.Token, bytes]:
    """Give the wallet's tokens, with the blind signature of each."""
    context = market._context
    with context.profile.store.immediate() as tx:
        rows = tx.all(
            sa.select(schema.tokens, schema.issuer_keys)
            .join(schema.issuer_keys, schema.tokens.c.key_id == schema.issuer_keys.c.key_id)
            .where(schema.issuer_keys.c.purpose == purpose)
        )
        opened = [context.wallet._token(row) for row in rows]
    return {token: row["blind_signature"] for token, row in zip(opened, rows, strict=True)}


def use(world: World, ticket: messages.Token, paid: list[messages.Token], *, order: bool) -> None:
    """Open a session with a ticket, and pay or swap in it."""
    session = Session(world)
    assert isinstance(session.greet(messages.TicketCredential(ticket=ticket)), messages.Welcome)
    values = {key_id: issuer.value for key_id, issuer in world.broker.issuing.issuers.items()}
    amount = sum(values[token.key_id] for token in paid)
    if order:
        answer: Any = session.ask(order_of(paid, amount).place, messages.OrderAnswer)
        assert answer.state == "held"
    else:
        wanted = blinded(world, coins.spread(amount, {}, 2**14))
        swap = messages.Swap(operation=fresh(), coins=paid, blinded=wanted.tokens)
        session.ask(swap, messages.Swapped)
    session.connection.close()


def order_of(paid: list[messages.Token], amount: int) -> Order:
    place = messages.PlaceOrder(
        order_id=fresh(),
        merchant="sports",
        amount=amount,
        currency="EUR",
        deadline=clock.now_ms() + config.HOUR_MS,
        coins=paid,
        claim_lock=secrets.token_bytes(32),
        status_lock=secrets.token_bytes(32),
        sealed=SEALED,
    )
    return Order(place, b"", b"")


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    chance = Random(1)  # noqa: S311 - to be repeated, not to be secret
    with recording() as recorder, closing(World(tmp_path_factory.mktemp("crowd"))) as world:
        keeper = Shopkeeper(world)
        wallets = [draw(world, f"customer{n}") for n in range(ACCOUNTS)]
        keeper.go()  # what it would answer does not matter here
        visits = [(n, visit) for n in range(ACCOUNTS) for visit in range(SESSIONS_EACH)]
        chance.shuffle(visits)
        for wallet in wallets:
            chance.shuffle(wallet.coins)
            chance.shuffle(wallet.tickets)
        for n, visit in visits:
            paid = wallets[n].coins[visit * COINS_EACH : (visit + 1) * COINS_EACH]
            use(world, wallets[n].tickets[visit], paid, order=visit % 2 == 0)
        record = recorder.record(world)
        keys = dict(world.broker.issuing._private)
    owners = {
        token.serial: n for n, wallet in enumerate(wallets) for token in (*wallet.coins, *wallet.tickets)
    }
    issues, uses = issued(record), used(record)
    chance.shuffle(issues)
    chance.shuffle(uses)
    sights = [
        Sight(issues, [use for use in uses if use.purpose == kind], keys) for kind in ("coin", "ticket")
    ]
    answers = {serial: answer for wallet in wallets for serial, answer in wallet.answers.items()}
    return Crowd(record, *sights, owners, answers)


def issued(record: Record) -> list[Issue]:
    """What the broker saw in account sessions; accounts are numbered in the order of their names' sign-up."""
    accounts: dict[bytes, int] = {}
    requests: dict[bytes, tuple[bytes, messages.Withdraw]] = {}
    found: list[Issue] = []
    for opened in record.opened:
        place = topics.parse(opened.seen.topic)
        if opened.side != "account" or not isinstance(place, topics.SessionUp | topics.SessionDown):
            continue
        sid = place.session_id
        for body in record.bodies_of(opened):
            if isinstance(body, messages.Hello):
                accounts.setdefault(sid, len(accounts))
            elif isinstance(body, messages.Withdraw):
                requests[body.operation] = (sid, body)
            elif isinstance(body, messages.Withdrawn):
                of, request = requests[body.operation]
                asked = [*request.coins, *request.tickets]
                for token, signature in zip(asked, [*body.coins, *body.tickets], strict=True):
                    seen = (of, body.operation)
                    found.append(Issue(accounts[of], token.key_id, token.blinded, signature, seen))
    return found


def used(record: Record) -> list[Use]:
    """What the broker saw in shop sessions."""
    found: list[Use] = []
    for opened in record.opened:
        place = topics.parse(opened.seen.topic)
        if opened.side != "shop" or not isinstance(place, topics.SessionUp):
            continue
        for body in record.bodies_of(opened):
            match body:
                case messages.Hello(credential=messages.TicketCredential(ticket=ticket)):
                    found.append(Use("ticket", ticket, (place.session_id, body.secret, body.ephemeral)))
                case messages.PlaceOrder():
                    seen = (place.session_id, body.order_id, body.claim_lock, body.status_lock)
                    found += [Use("coin", token, seen) for token in body.coins]
                case messages.Swap():
                    seen = (place.session_id, body.operation, *(each.blinded for each in body.blinded))
                    found += [Use("coin", token, seen) for token in body.coins]
    return found


# --- the real wallet -----------------------------------------------------------------------------------


def test_the_adversary_has_seen_all_of_it(crowd: Crowd) -> None:
    drawn = ACCOUNTS * BUNDLES
    assert len(crowd.coins.issues) == drawn * (len(coins.BUNDLE) + coins.BUNDLE_TICKETS)
    assert len({issue.account for issue in crowd.coins.issues}) == ACCOUNTS
    assert len(crowd.coins.uses) == ACCOUNTS * SESSIONS_EACH * COINS_EACH == 1000
    assert len(crowd.tickets.uses) == ACCOUNTS * SESSIONS_EACH == 200
    # It verifies what it saw: these are the tokens that its keys have signed.
    for each in (*crowd.coins.uses, *crowd.tickets.uses):
        public = crowd.coins.keys[each.token.key_id].public
        message = coins.prepared(each.purpose, each.token.key_id, each.token.prefix, each.token.serial)
        public.verify(message, each.token.signature)


@pytest.mark.parametrize("strategy", linking.STRATEGIES, ids=lambda strategy: strategy.__name__)
@pytest.mark.parametrize("kind", ["coins", "tickets"])
def test_no_strategy_does_better_than_chance(crowd: Crowd, strategy: linking.Strategy, kind: str) -> None:
    sight: Sight = getattr(crowd, kind)
    result = attempt(strategy, sight, crowd.truth(sight))
    print(result)  # noqa: T201 - with `pytest -rP` one reads what was tried
    assert not result.better_than_chance, result
    assert "times and order were left out" in str(result)


def test_every_pair_of_drawing_and_use_has_a_blinding_factor(crowd: Crowd) -> None:
    """Which is why the keys do not help: each drawing could have been each use's."""
    sight = crowd.coins
    for each in sight.uses[:20]:
        key = sight.keys[each.token.key_id].public
        factors = sight.factors(each)
        assert len(factors) == len(sight.of_key[each.token.key_id]) > ACCOUNTS
        for issue, factor in factors:
            signed = gmpy2.powmod(int.from_bytes(each.token.signature), key.exponent, key.modulus)
            blinded_again = signed * gmpy2.powmod(factor, key.exponent, key.modulus) % key.modulus
            assert blinded_again == int.from_bytes(issue.blinded)


FEATURES: dict[str, Callable[[int, BlindPrivateKey], bool]] = {
    "square modulo p": lambda r, key: gmpy2.legendre(r, key._numbers.p) == 1,
    "square modulo q": lambda r, key: gmpy2.legendre(r, key._numbers.q) == 1,
    "Jacobi symbol": lambda r, key: gmpy2.jacobi(r, key.public.modulus) == 1,
    "odd": lambda r, _key: bool(r & 1),
    "upper half": lambda r, key: 2 * r > key.public.modulus,
    "upper half modulo p": lambda r, key: 2 * (r % key._numbers.p) > key._numbers.p,
    "many bits": lambda r, _key: r.bit_count() > 1022,
}


@pytest.mark.parametrize("feature", FEATURES)
def test_the_true_blinding_factors_look_like_any_numbers(crowd: Crowd, feature: str) -> None:
    """The mint computes one for every pair; those of the true pairs are no others."""
    yes = sum(FEATURES[feature](factor, key) for factor, key in crowd.factors)
    assert len(crowd.factors) == 1200
    for count in (yes, 1200 - yes):
        assert not Result(feature, count, 1200, 2).better_than_chance


def test_accounts_and_sessions_have_no_bytes_in_common_in_all_that_the_broker_holds(crowd: Crowd) -> None:
    """Store, files, log, memory and messages: see `test_privacy.py`, here with a crowd."""
    account, shop = crowd.record.side_of_broker("account"), crowd.record.side_of_broker("shop")
    assert min(account.size, shop.size) > 100_000
    assert shared(account, shop, crowd.record.public()) == []


# --- wallets that can be linked ------------------------------------------------------------------------


@dataclass(frozen=True)
class Faulty:
    """How a wallet makes its tokens, if it makes a mistake."""

    key: Callable[[int, Sequence[BlindPrivateKey]], BlindPrivateKey]
    serial: Callable[[bytes, int], bytes]
    factor: Callable[[int, int], int]
    """By account and modulus."""


def uniform(_account: int, modulus: int) -> int:
    return secrets.randbelow(modulus - 2) + 1


def one_key(_account: int, keys: Sequence[BlindPrivateKey]) -> BlindPrivateKey:
    return keys[0]


def random_serial(_operation: bytes, _counter: int) -> bytes:
    return secrets.token_bytes(32)


SECRET = [secrets.randbits(2000) for _ in range(ACCOUNTS)]
FAULTY = {
    "a serial that counts, in clear": (
        Faulty(one_key, lambda operation, n: operation + n.to_bytes(16), uniform),
        linking.by_bytes,
    ),
    "one blinding factor for all": (
        Faulty(one_key, random_serial, lambda account, _: SECRET[account]),
        linking.by_factor_again,
    ),
    "a short blinding factor": (
        Faulty(one_key, random_serial, lambda _account, _modulus: secrets.randbits(128) + 2),
        linking.by_small_factor,
    ),
    "a key for each customer": (
        Faulty(lambda account, keys: keys[account % len(keys)], random_serial, uniform),
        linking.by_key,
    ),
}


@pytest.fixture(scope="module")
def keys() -> list[BlindPrivateKey]:
    return [BlindPrivateKey.generate() for _ in range(3)]


def market_of(
    wallet: Faulty, keys: Sequence[BlindPrivateKey], accounts: int, each: int
) -> tuple[Sight, list[int]]:
    """Let accounts draw and use with such a wallet; gives what is seen, and what is true."""
    issues: list[Issue] = []
    uses: list[tuple[Use, int]] = []
    for account in range(accounts):
        private, operation = wallet.key(account, keys), fresh()
        public = private.public
        for counter in range(each):
            prefix, serial = secrets.token_bytes(32), wallet.serial(operation, counter)
            message = coins.prepared("coin", public.key_id, prefix, serial)
            factor = wallet.factor(account, public.modulus)
            masked, inverse = blind.blind(public, message, secrets.token_bytes(48), factor)
            signed = private.blind_sign(masked)
            token = messages.Token(
                key_id=public.key_id,
                prefix=prefix,
                serial=serial,
                signature=blind.finalize(public, message, signed, inverse),
            )
            issues.append(Issue(account, public.key_id, masked, signed, (operation,)))
            uses.append((Use("coin", token), account))
    chance = Random(2)  # noqa: S311 - to be repeated, not to be secret
    chance.shuffle(issues)
    chance.shuffle(uses)
    by_id = {key.public.key_id: key for key in keys}
    return Sight(issues, [use for use, _ in uses], by_id), [account for _, account in uses]


@pytest.mark.parametrize("fault", FAULTY)
def test_a_wallet_that_can_be_linked_is_matched_with_certainty(
    fault: str, keys: Sequence[BlindPrivateKey]
) -> None:
    wallet, strategy = FAULTY[fault]
    accounts = 3 if strategy is linking.by_key else ACCOUNTS
    sight, truth = market_of(wallet, keys, accounts, 30 if accounts == 3 else 6)
    result = attempt(strategy, sight, truth)
    assert result.hits == result.uses, result
    assert result.better_than_chance
    assert best(sight, truth).better_than_chance


def test_a_factor_that_is_always_a_square_is_noticed(keys: Sequence[BlindPrivateKey]) -> None:
    wallet = Faulty(one_key, random_serial, lambda account, modulus: uniform(account, modulus) ** 2 % modulus)
    markets = [market_of(wallet, keys, 4, 1) for _ in range(40)]
    hits = sum(attempt(linking.by_residues, sight, truth).hits for sight, truth in markets)
    assert Result("by_residues", hits, 160, 4).better_than_chance


def test_a_wallet_without_a_fault_is_matched_by_nothing(keys: Sequence[BlindPrivateKey]) -> None:
    sight, truth = market_of(Faulty(one_key, random_serial, uniform), keys, ACCOUNTS, 6)
    assert not best(sight, truth).better_than_chance


def test_what_chance_explains_is_computed_rightly() -> None:
    assert Result("", 0, 10, 2).probability == pytest.approx(1)
    assert Result("", 10, 10, 2).probability == pytest.approx(2**-10)
    assert Result("", 50, 1000, 20).probability == pytest.approx(0.52, abs=0.02)
    # A thousand uses are enough to notice an adversary that is right twice as often as chance.
    assert not Result("", 80, 1000, 20).better_than_chance
    assert Result("", 100, 1000, 20).better_than_chance
