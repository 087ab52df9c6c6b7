"""How many cells a delivery asks for at once: about as many as come in a quarter of a second.

    SMALLEST_WINDOW --each window that comes within QUICK_MS: twice as many--> LARGEST_WINDOW
                    <--each that takes longer than SLOW_MS: half as many-----

Rule 1. A window is a request of its own, which customer, broker and merchant open and seal: large ones cost
each of them less for a cell, and keep the whole chain at work. But what is asked for of a slow merchant holds
up its other customers, so only who is served quickly asks for much.

Rule 2. A broker may allow fewer (`cell_window`): where it refuses a window, no larger one is asked for.
"""

from __future__ import annotations

from typing import Final

from common import config
from customer_node.timing import Clock, Countdown

SMALLEST_WINDOW: Final = config.SMALLEST_CELL_WINDOW
LARGEST_WINDOW: Final = config.Limits().cell_window // 2
"""Two fill what a session may have under way, so that one comes while another is asked for."""
WINDOWS_UNDER_WAY: Final = 3
QUICK_MS: Final = 250
SLOW_MS: Final = 1_000


class Pace:
    """Goes with one delivery; `cells` is how many to ask for next."""

    def __init__(self, largest: int = LARGEST_WINDOW) -> None:
        self.cells = SMALLEST_WINDOW
        self._largest = max(SMALLEST_WINDOW, min(largest, LARGEST_WINDOW))

    def came(self, asked: Asked) -> None:
        """Hear that all of a window has come."""
        if not asked.quick.over:
            self.cells = min(2 * self.cells, self._largest)
        elif asked.slow.over:
            self.cells = max(self.cells // 2, SMALLEST_WINDOW)

    def refused(self, cells: int) -> bool:
        """Hear that the broker allows no window of so many; tells whether to ask for a smaller one."""
        if cells <= SMALLEST_WINDOW:
            return False
        # Less than this is allowed for all windows together, and two shall be under way.
        self._largest = min(self._largest, max(cells // 4, SMALLEST_WINDOW))
        self.cells = min(self.cells, self._largest)
        return True

    def begin_again(self) -> None:
        """Hear that what was asked for did not come: a small window finds a place sooner."""
        self.cells = SMALLEST_WINDOW


class Asked:
    """When a window was asked for."""

    def __init__(self, clock: Clock) -> None:
        self.quick = Countdown(clock, QUICK_MS)
        self.slow = Countdown(clock, SLOW_MS)
