"""The seed as 24 words (BIP 39, English): its 256 bits and 8 bits of checksum, eleven to a word.

The words are the seed itself, in another spelling. BIP 39's own way from words to a key, which adds a
passphrase, is not used: nothing beside them has to be remembered.
"""

from __future__ import annotations

from functools import lru_cache

from mnemonic import Mnemonic

from common import coins
from common.errors import UsageError

COUNT = 24


def words_of(seed: bytes) -> list[str]:
    """Spell a 32-byte seed."""
    return _english().to_mnemonic(seed).split()


def seed_of(text: str) -> bytes:
    """Read a seed from words, however they are spaced or capitalised. Raises `UsageError`."""
    words = text.lower().split()
    if len(words) != COUNT:
        raise UsageError(f"A wallet has {COUNT} words; these are {len(words)}.")
    known = set(_english().wordlist)
    unknown = [number for number, word in enumerate(words, 1) if word not in known]
    if unknown:
        places = ", ".join(map(str, unknown))
        # The words themselves are the money: they are not repeated on a screen.
        raise UsageError(f"Not in the list of words: number {places}.", "Look at what you wrote down.")
    if not _english().check(" ".join(words)):
        raise UsageError("The words' checksum is wrong.", "One of them is another, or two changed places.")
    seed = bytes(_english().to_entropy(words))
    if len(seed) != coins.SEED_BYTES:
        raise UsageError("These words spell no seed of a wallet.")
    return seed


@lru_cache(maxsize=1)
def _english() -> Mnemonic:
    return Mnemonic("english")
