"""The keys that open sealed requests: one per hour for browsing, one per day for orders.

Rule 1. An order may lie with the broker for up to its deadline (24 hours at most), so its prekey stays
that long and ten minutes more; then it is erased, and nobody can open that day's orders any more.

Rule 2. Order prekeys are published 14 days ahead: an absent merchant can still be ordered from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from common.keyring import Keyring, Schedule
from common.messages import SlotKey
from common.sealing import XWingPrivateKey

BROWSE_SCHEDULE: Final = Schedule(period_ms=HOUR_MS, ahead=1, grace_ms=HOUR_MS)
ORDER_SCHEDULE: Final = Schedule(period_ms=DAY_MS, ahead=13, grace_ms=DAY_MS + 10 * MINUTE_MS)


@dataclass(frozen=True)
class Prekeys:
    """Both keyrings of a merchant."""

    browse: Keyring[XWingPrivateKey]
    order: Keyring[XWingPrivateKey]

    @classmethod
    def in_folder(cls, folder: Path) -> Prekeys:
        """Load `browse/` and `order/` of a folder, which are made where missing."""
        return cls(_keyring(folder / "browse", BROWSE_SCHEDULE), _keyring(folder / "order", ORDER_SCHEDULE))

    def refresh(self, now: int) -> bool:
        """Make and erase what is due: files, at once. Tells whether the card must change."""
        browse, order = self.browse.refresh(now), self.order.refresh(now)
        return browse or order

    def browse_slots(self, now: int) -> list[SlotKey]:
        """Give the browse prekeys for the card."""
        return _slots(self.browse, now)

    def order_slots(self, now: int) -> list[SlotKey]:
        """Give the order prekeys for the card; it ends with the last of them."""
        return _slots(self.order, now)


def _keyring(folder: Path, schedule: Schedule) -> Keyring[XWingPrivateKey]:
    return Keyring(
        folder,
        schedule,
        XWingPrivateKey.generate,
        XWingPrivateKey.from_bytes,
        lambda key: key.public.key_id,
    )


def _slots(keyring: Keyring[XWingPrivateKey], now: int) -> list[SlotKey]:
    return [SlotKey(slot=slot, public=key.public.raw) for slot, key in keyring.from_now(now)]
