"""An adversary that has the mint: it tries to say which account drew a token that was used.

    issues = [Issue(...), ...]     what it saw in account sessions: blinded values and its own signatures
    uses   = [Use(...), ...]       what it saw in shop sessions: tokens
    guesses = strategy(issues, uses, keys, chance)

Every strategy gives an account for every use, by tossing a coin where it knows nothing. How good it was is
compared with pure chance (`Result`). Times, and the order in which things came, are not given to it: they are
what a customer hides behind a minimum age and a crowd, not behind a signature.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TypeAlias

import gmpy2

from common import coins
from common.blind import BlindPrivateKey
from common.coins import Purpose
from common.messages import Token

RUN = 8
"""Bytes in a row that two places do not have in common by chance."""

TOLERATED = 1e-6
"""A strategy without any knowledge is called better than chance once in so many trials."""


@dataclass(frozen=True)
class Issue:
    """A token that an account asked for."""

    account: int
    key_id: bytes
    blinded: bytes
    signature: bytes
    others: tuple[bytes, ...] = ()
    """Whatever else came with it: session, operation."""


@dataclass(frozen=True)
class Use:
    """A token that was spent."""

    purpose: Purpose
    token: Token
    others: tuple[bytes, ...] = ()


Keys: TypeAlias = Mapping[bytes, BlindPrivateKey]
Strategy: TypeAlias = Callable[["Sight"], list[int]]


@dataclass(frozen=True)
class Sight:
    """Everything that an adversary has."""

    issues: Sequence[Issue]
    uses: Sequence[Use]
    keys: Keys
    chance: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - to be repeated, not to be secret

    @cached_property
    def of_key(self) -> Mapping[bytes, Sequence[Issue]]:
        """The tokens that each key signed."""
        found: defaultdict[bytes, list[Issue]] = defaultdict(list)
        for issue in self.issues:
            found[issue.key_id].append(issue)
        return found

    def anyone(self, use: Use) -> int:
        """Toss a coin among whatever this token's key has signed."""
        return self.chance.choice(self.of_key[use.token.key_id]).account

    def factors(self, use: Use) -> list[tuple[Issue, int]]:
        """Give the blinding factor that each issue would have had if it were this token's.

        There is one for each, which is what makes the signature blind: s_blind = s * r (RFC 9474 §4.4).
        """
        n = gmpy2.mpz(self.keys[use.token.key_id].public.modulus)
        inverse = gmpy2.invert(int.from_bytes(use.token.signature), n)
        return [
            (issue, int(int.from_bytes(issue.signature) * inverse % n))
            for issue in self.of_key[use.token.key_id]
        ]


# --- strategies ----------------------------------------------------------------------------------------


def by_key(sight: Sight) -> list[int]:
    """Somebody has a key of its own: then only its tokens are signed with that."""
    return [sight.anyone(use) for use in sight.uses]


def by_bytes(sight: Sight) -> list[int]:
    """Something that was said at the drawing is said again at the use."""
    seen: defaultdict[bytes, set[int]] = defaultdict(set)
    for issue in sight.issues:
        for value in (issue.blinded, issue.signature, *issue.others):
            for start in range(0, len(value) - RUN + 1, RUN):
                seen[value[start : start + RUN]].add(issue.account)
    guesses = []
    for use in sight.uses:
        token, votes = use.token, Counter[int]()
        message = coins.prepared(use.purpose, token.key_id, token.prefix, token.serial)
        for value in (token.prefix, token.serial, token.signature, coins.spent_mark(message), *use.others):
            for start in range(len(value) - RUN + 1):
                if (accounts := seen.get(value[start : start + RUN])) is not None:
                    votes.update(accounts)
        guesses.append(votes.most_common(1)[0][0] if votes else sight.anyone(use))
    return guesses


def by_small_factor(sight: Sight) -> list[int]:
    """A blinding factor that is smaller than it should be, from either side."""
    guesses = []
    for use in sight.uses:
        n = sight.keys[use.token.key_id].public.modulus
        issue, _ = min(sight.factors(use), key=lambda pair: min(pair[1], n - pair[1]))
        guesses.append(issue.account)
    return guesses


def by_factor_again(sight: Sight) -> list[int]:
    """One blinding factor, or its sum or difference with another, fits an account again and again."""
    fits: defaultdict[int, Counter[int]] = defaultdict(Counter)
    pairs: list[list[tuple[int, int]]] = []
    for use in sight.uses:
        mine = [(issue.account, hash(factor)) for issue, factor in sight.factors(use)]
        pairs.append(mine)
        for account, factor in set(mine):
            fits[factor][account] += 1
    guesses = []
    for use, mine in zip(sight.uses, pairs, strict=True):
        votes, account = max((fits[factor][account], account) for account, factor in mine)
        guesses.append(account if votes > 1 else sight.anyone(use))
    return guesses


def by_residues(sight: Sight) -> list[int]:
    """A blinding factor that is a square modulo a prime changes nothing about what it blinds.

    Only the mint can look: it has the primes. With factors that are uniform a quarter fits, and no better.
    """

    def residues(number: int, key: BlindPrivateKey) -> tuple[int, int]:
        return gmpy2.legendre(number, key._numbers.p), gmpy2.legendre(number, key._numbers.q)

    kinds = {
        key_id: [(issue, residues(int.from_bytes(issue.blinded), sight.keys[key_id])) for issue in issues]
        for key_id, issues in sight.of_key.items()
    }
    guesses = []
    for use in sight.uses:
        key = sight.keys[use.token.key_id]
        # The signature is an e-th root of what was signed, and e is odd: their residues are the same.
        mine = residues(int.from_bytes(use.token.signature), key)
        fitting = [issue.account for issue, kind in kinds[use.token.key_id] if kind == mine]
        guesses.append(sight.chance.choice(fitting) if fitting else sight.anyone(use))
    return guesses


def by_rank(sight: Sight) -> list[int]:
    """The smallest serial belongs to the smallest blinded value, and so on."""
    places: dict[int, int] = {}
    for key_id, issues in sight.of_key.items():
        ranked = sorted(issues, key=lambda issue: issue.blinded)
        mine = [(use.token.serial, n) for n, use in enumerate(sight.uses) if use.token.key_id == key_id]
        for rank, (_, n) in enumerate(sorted(mine)):
            places[n] = ranked[rank * len(ranked) // len(mine)].account
    return [places[n] for n in range(len(sight.uses))]


def by_what_is_left(sight: Sight) -> list[int]:
    """Each account used as much as it drew: guess whoever has most left of what was used."""
    left = Counter((issue.account, issue.key_id) for issue in sight.issues)
    accounts = sorted({issue.account for issue in sight.issues})
    guesses = []
    for use in sight.uses:
        most = max(left[account, use.token.key_id] for account in accounts)
        chosen = sight.chance.choice([a for a in accounts if left[a, use.token.key_id] == most])
        left[chosen, use.token.key_id] -= 1
        guesses.append(chosen)
    return guesses


STRATEGIES: Sequence[Strategy] = (
    by_key,
    by_bytes,
    by_small_factor,
    by_factor_again,
    by_residues,
    by_rank,
    by_what_is_left,
)


# --- how good it was -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """A strategy's hits, beside those of whoever tosses a coin between so many accounts."""

    strategy: str
    hits: int
    uses: int
    accounts: int

    @property
    def probability(self) -> float:
        """How probable so many hits or more are by chance: the upper tail of the binomial distribution."""
        p = 1 / self.accounts
        return math.fsum(
            math.exp(_log_choose(self.uses, k) + k * math.log(p) + (self.uses - k) * math.log1p(-p))
            for k in range(self.hits, self.uses + 1)
        )

    @property
    def better_than_chance(self) -> bool:
        """Whether chance alone would hardly have done it."""
        return self.probability < TOLERATED

    def __str__(self) -> str:
        """Say what was found, and what was not given to it."""
        return (
            f"{self.strategy}: {self.hits} of {self.uses} tokens matched to one of {self.accounts} accounts, "
            f"{self.uses / self.accounts:.0f} expected by chance; times and order were left out"
        )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def attempt(strategy: Strategy, sight: Sight, truth: Sequence[int]) -> Result:
    """Let a strategy guess, and count its hits."""
    guesses = strategy(sight)
    hits = sum(guess == account for guess, account in zip(guesses, truth, strict=True))
    return Result(strategy.__name__, hits, len(truth), len(set(truth)))


def best(sight: Sight, truth: Sequence[int], strategies: Iterable[Strategy] = STRATEGIES) -> Result:
    """Give the result that chance explains least."""
    return min((attempt(each, sight, truth) for each in strategies), key=lambda result: result.probability)
