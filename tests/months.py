"""From month to month: the clock goes on, and the broker's keys with it."""

from __future__ import annotations

from client import broker_card, settle
from conftest import Time
from world import World

from common import clock, slots
from common.config import HOUR_MS
from common.errors import StaleError


def go_to(world: World, time: Time, moment: int) -> None:
    ahead = moment - clock.now_ms()
    assert ahead >= 0, "the clock goes forward only"
    time.advance(ahead)
    # One each second, as the clock goes; a test does not wait for that.
    while world.broker.make_key(clock.now_ms()):
        pass
    month = slots.month_of(moment)
    assert world.pump(lambda: month in months_announced(world))
    # After days everybody has to come back.
    broker = world.broker.broker
    assert world.pump(lambda: all(broker.merchant_online(each, clock.now_ms()) for each in world.merchants))
    settle(world)


def to_month_end(world: World, time: Time, left: int) -> str:
    """Go where so much of a month is left, of the next one where it is less by now; gives the month."""
    month = slots.month_of(clock.now_ms())
    if slots.month_start(slots.next_month(month)) - left < clock.now_ms():
        month = slots.next_month(month)
        go_to(world, time, slots.month_start(month))
    go_to(world, time, slots.month_start(slots.next_month(month)) - left)
    return month


def to_grace_end(world: World, time: Time, month: str) -> None:
    """Go past the end of a month's grace; nothing that was made before has a session or a key any more."""
    go_to(world, time, slots.grace_end(month) + HOUR_MS)


def months_announced(world: World) -> set[str]:
    try:
        return {key.month for key in broker_card(world).issuer_keys}
    except StaleError:
        return set()
