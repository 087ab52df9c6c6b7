"""How many cells are asked for at once."""

from __future__ import annotations

from customer_node.pace import LARGEST_WINDOW, QUICK_MS, SLOW_MS, SMALLEST_WINDOW, Asked, Pace


class Windows:
    """Windows that take as long as they are told."""

    def __init__(self) -> None:
        self.now = 0
        self.pace = Pace()

    def take(self, took_ms: int) -> int:
        asked = Asked(lambda: self.now)
        self.now += took_ms
        self.pace.came(asked)
        return self.pace.cells


def test_it_begins_with_few_and_asks_for_more_while_they_come_quickly() -> None:
    windows = Windows()
    assert windows.pace.cells == SMALLEST_WINDOW == 8
    assert [windows.take(QUICK_MS - 1) for _ in range(4)] == [16, 32, 32, 32]
    assert LARGEST_WINDOW == 32


def test_it_asks_for_fewer_where_they_come_slowly() -> None:
    windows = Windows()
    for _ in range(2):
        windows.take(1)
    assert windows.take(QUICK_MS) == windows.take(SLOW_MS - 1) == 32, "neither quick nor slow"
    assert [windows.take(SLOW_MS) for _ in range(3)] == [16, 8, 8]


def test_it_asks_for_no_more_than_the_broker_allows() -> None:
    windows = Windows()
    for _ in range(2):
        windows.take(1)
    # It allows less than 32 for all windows together: two of 8 fit.
    assert windows.pace.refused(32)
    assert [windows.take(1) for _ in range(3)] == [8, 8, 8]
    assert not windows.pace.refused(8), "there is no smaller one"


def test_refusals_that_come_late_allow_nothing_more() -> None:
    windows = Windows()
    for _ in range(2):
        windows.take(1)
    assert windows.pace.refused(16)
    assert windows.pace.refused(32)
    assert [windows.take(1) for _ in range(2)] == [8, 8]


def test_it_begins_again_where_nothing_came() -> None:
    windows = Windows()
    for _ in range(2):
        windows.take(1)
    windows.pace.begin_again()
    assert windows.pace.cells == 8
    assert windows.take(1) == 16


def test_whoever_wants_a_step_after_few_cells_is_given_small_windows() -> None:
    for wished, given in ((0, 8), (8, 8), (20, 20), (64, 32)):
        pace = Pace(wished)
        windows = Windows()
        windows.pace = pace
        assert [windows.take(1) for _ in range(3)][-1] == given
