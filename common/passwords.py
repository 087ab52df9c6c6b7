"""What a password must be: long enough, none of the most common ones, and not the name.

Checked on the customer's machine before anything is sent, and at the broker again. The list is the one of
30,000 passwords that `zxcvbn` carries, from leaks, the most common first (NIST SP 800-63B, 3.1.1.2, asks for
such a list and for no rules about kinds of characters).
"""

from __future__ import annotations

import functools
from typing import Final

from common.errors import RejectedError

SHORTEST: Final = 8
LONGEST: Final = 256


def check_password(password: str, name: str = "") -> None:
    """Refuse a password that is easily guessed. `name` is the account's, where it is known.

    Raises `RejectedError`.
    """
    if len(password) < SHORTEST:
        raise RejectedError(f"A password has at least {SHORTEST} characters.", "Choose a longer one.")
    lowered = password.casefold()
    stem = lowered.rstrip("0123456789!?.*#$-_ ")
    if not {lowered, stem, lowered[::-1]}.isdisjoint(_common()):
        raise RejectedError("That is one of the most common passwords.", "Choose another one.")
    if len(set(lowered)) < SHORTEST // 2:
        raise RejectedError("That password repeats a few characters only.", "Choose another one.")
    if name and stem in {name.casefold(), name.casefold()[::-1]}:
        raise RejectedError("That password is the account's name.", "Choose another one.")


@functools.cache
def _common() -> frozenset[str]:
    # 40 ms to import, and rarely needed.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415

    return frozenset(FREQUENCY_LISTS["passwords"])
