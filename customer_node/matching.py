"""Which token a blind signature belongs to, found from the signature alone.

A blind signature s under a key (n, e) was made for the blinded value s^e mod n (RFC 9474, section 4.3), and
the wallet can blind every counter again. So the broker need not keep, nor say, what was asked for.

    matcher = Matcher(seed, keys, eras)
    found = matcher.find("coin", signature)         # (key, counter), or None

Rule. Counters are tried a window beyond the highest that was found under a key in an era: withdrawals and
swaps take them in turn, so what is looked for lies close, and `widen` looks further for the rest.

No I/O, clock or randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from common import coins
from common.messages import IssuerKey
from customer_node import numbers

WINDOW: Final = 32
WIDEST: Final = 1024


class Matcher:
    """Candidates for the keys and eras that were asked for; they are computed as they are needed."""

    def __init__(self, seed: bytes, keys: Sequence[IssuerKey], eras: Iterable[int]) -> None:
        self._seed = seed
        self._keys = {key.key_id: key for key in keys}
        self._eras = sorted(set(eras))
        self._window = WINDOW
        self._counters: dict[tuple[bytes, bytes], int] = {}
        """(key id, blinded value) -> counter."""
        self._reached: dict[tuple[bytes, int], int] = {}
        self._highest: dict[tuple[bytes, int], int] = {}

    def note(self, key_id: bytes, counter: int) -> None:
        """Note that a counter is known to be used: look beyond it."""
        era, count = numbers.split_counter(counter)
        place = (key_id, era)
        self._highest[place] = max(count, self._highest.get(place, -1))

    def find(self, purpose: coins.Purpose, signature: bytes) -> tuple[IssuerKey, int] | None:
        """Give the key and counter that a blind signature was made for."""
        for key in self._keys.values():
            if key.purpose != purpose:
                continue
            self._extend(key)
            counter = self._counters.get((key.key_id, coins.blinded_of(key, signature)))
            if counter is not None:
                self.note(key.key_id, counter)
                return key, counter
        return None

    def widen(self) -> bool:
        """Look four times as far from now on; False where it is far enough."""
        if self._window >= WIDEST:
            return False
        self._window = min(4 * self._window, WIDEST)
        return True

    def _extend(self, key: IssuerKey) -> None:
        for era in self._eras:
            place = (key.key_id, era)
            end = self._highest.get(place, -1) + 1 + self._window
            for count in range(self._reached.get(place, 0), end):
                counter = numbers.first_counter(era) + count
                blinded = coins.blind_token(key, self._seed, counter).blinded
                self._counters[key.key_id, blinded] = counter
            self._reached[place] = max(end, self._reached.get(place, 0))
