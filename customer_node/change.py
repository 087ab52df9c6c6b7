"""Change: which coins to swap so that an amount can be paid exactly, and which a refund comes back in.

Rule. Denominations are powers of two, so that going from the top down decides everything
(`common.coins.exact`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from common import coins, config
from common.errors import InsufficientFundsError, RejectedError


def demand(amount: int, held: Mapping[int, int]) -> None:
    """Demand that coins come to `amount` or more. Raises `InsufficientFundsError`."""
    total = sum(value * count for value, count in held.items())
    if total < amount:
        raise InsufficientFundsError(
            "The wallet holds less than that.", "`veilmart withdraw` draws coins.", missing=amount - total
        )


def change_for(amount: int, held: Mapping[int, int], top: int) -> tuple[list[int], list[int]]:
    """Choose coins to swap, and what for, so that `amount` can then be paid exactly.

    From the top down as `coins.exact` goes, what remains is smaller than every coin left: one coin more,
    the smallest, is swapped into the rest and change. Where the exact payment would take more coins than
    an order may have, its smallest ones are swapped into larger ones. Gives two empty lists where no swap
    is needed. Raises `InsufficientFundsError`, or `RejectedError` where no coins are large enough.
    """
    demand(amount, held)
    exact = coins.exact(held, amount)
    if exact is not None:
        if len(exact) <= config.MAXIMUM_COINS:
            return [], []
        smallest = exact[-config.MAXIMUM_COINS :]
        outcome = _fewest(sum(smallest), top)
        if len(outcome) == len(smallest):
            raise RejectedError("No order can be that large: it would take too many coins.")
        return smallest, outcome
    taken: Counter[int] = Counter()
    rest = amount
    for value in sorted(held, reverse=True):
        taken[value] = min(held[value], rest // value)
        rest -= taken[value] * value
    left = {value: count - taken[value] for value, count in held.items() if count > taken[value]}
    coin = min(left)
    outcome = _fewest(rest, top) + _spread(coin - rest, left, top)
    return [coin], sorted(outcome, reverse=True)


def refund_coins(amount: int, held: Mapping[int, int], top: int) -> list[int]:
    """Choose the coins that a refund of `amount` comes back in."""
    return _spread(amount, held, top)


def reach(held: Mapping[int, int]) -> int:
    """Give the largest amount up to which every amount can be paid exactly.

    From the smallest coin upwards: a coin that is at most one more than what is reached so far extends
    it by its own value, since all amounts below it are there already; a larger one leaves a gap.
    """
    reached = 0
    for value in sorted(held):
        if held[value] and value > reached + 1:
            break
        reached += value * held[value]
    return reached


def spread_swap(held: Mapping[int, int], top: int) -> tuple[int, list[int]] | None:
    """Choose one coin to swap, and what for, so that the wallet pays every amount up to half of its worth.

    The smallest coin that brings this about, or else the one that brings most; None where nothing is
    missing, or no swap helps.
    """
    goal = sum(value * count for value, count in held.items()) // 2
    best, best_reach = None, reach(held)
    if best_reach >= goal:
        return None
    for coin in sorted(value for value, count in held.items() if count and value > 1):
        rest = {value: count - (value == coin) for value, count in held.items()}
        wanted = _spread(coin, rest, top)
        reached = reach(Counter(rest) + Counter(wanted))
        if reached > best_reach:
            best, best_reach = (coin, wanted), reached
        if reached >= goal:
            break
    return best


def _spread(amount: int, held: Mapping[int, int], top: int) -> list[int]:
    chosen = coins.spread(amount, held, top)
    return chosen if len(chosen) <= config.MAXIMUM_COINS // 2 else _fewest(amount, top)


def _fewest(amount: int, top: int) -> list[int]:
    # Whoever holds one of each lacks none of them: then `spread` goes from the top down alone.
    return coins.spread(amount, {2**exponent: 1 for exponent in range(top.bit_length())}, top)
