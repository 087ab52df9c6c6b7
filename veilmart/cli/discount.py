"""`veilmart merchant discount`: codes that take something off. A running merchant takes each at once.

A code is worth money to whoever knows it, and nothing ties it to a person: make it hard to guess where it
is meant for few. The broker sees only the total of an order; a price that few orders have stands out.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final

import typer

from common.errors import UsageError
from common.money import format_amount, format_rate, parse_amount, parse_rate
from merchant_node.discounts import Discount
from merchant_node.home import MerchantHome
from veilmart.cli.homes import Home, MerchantId, merchant_home, output
from veilmart.cli.times import day_of
from veilmart.output import Table

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Discount codes.")

DAY_MS: Final = 24 * 3600 * 1000

Code = Annotated[str, typer.Argument(help="4 to 32 of A-Z, 0-9 and '-'; customers may type it in any case.")]


@app.command()
def add(
    context: typer.Context,
    code: Code,
    percent: Annotated[
        str | None, typer.Option(help="Off each line that it covers, such as 10 or 7.5.")
    ] = None,
    amount: Annotated[str | None, typer.Option(help="Off the order, once, such as 5.00.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM-DD", help="Its first day, in UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Its last day, in UTC.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many orders may use it.")] = None,
    minimum: Annotated[
        str | None, typer.Option(help="What an order's lines cost at least before it.")
    ] = None,
    sku: Annotated[str, typer.Option(help="It covers this product alone.")] = "",
    category: Annotated[str, typer.Option(help="It covers this category alone.")] = "",
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Make a discount code."""
    place = MerchantHome(merchant_home(home, merchant))
    currency = place.market().currency
    with place.promotions() as promotions:
        made = promotions.add(
            code.strip().upper(),
            rate=0 if percent is None else parse_rate(percent),
            amount=0 if amount is None else parse_amount(amount, currency),
            starts=0 if from_ is None else _midnight(from_),
            ends=None if until is None else _midnight(until) + DAY_MS,
            use_limit=limit,
            minimum=0 if minimum is None else parse_amount(minimum, currency),
            sku=sku,
            category=category,
        )
    output(context).show(
        _fields(made, currency),
        f"{made.code} takes off {_off(made, currency)}",
        "`veilmart merchant privacy` shows how its prices stand out",
    )


@app.command("list")
def list_codes(context: typer.Context, merchant: MerchantId = None, home: Home = None) -> None:
    """List the discount codes, and how often each was used."""
    place = MerchantHome(merchant_home(home, merchant))
    currency = place.market().currency
    with place.promotions() as promotions:
        found = promotions.all()
    rows = [
        (
            each.code,
            _off(each, currency),
            each.sku or each.category or "everything",
            format_amount(each.minimum, currency) if each.minimum else "",
            day_of(each.starts) if each.starts else "",
            day_of(each.ends - 1) if each.ends is not None else "",
            f"{each.used} of {each.use_limit}" if each.use_limit is not None else each.used,
        )
        for each in found
    ]
    names = ("code", "takes off", "covers", "minimum", "from", "until", "used")
    output(context).show([_fields(each, currency) for each in found], Table(names, rows))


@app.command()
def remove(context: typer.Context, code: Code, merchant: MerchantId = None, home: Home = None) -> None:
    """Make a code unknown. Orders that used it stay as they are."""
    spelled = code.strip().upper()
    with MerchantHome(merchant_home(home, merchant)).promotions() as promotions:
        promotions.remove(spelled)
    output(context).show({"code": spelled, "removed": True}, f"{spelled} no longer counts")


def _midnight(day: str) -> int:
    try:
        found = date.fromisoformat(day)
        moment = datetime.combine(found, time(), UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except ValueError:
        raise UsageError(f"{day!r} is no day.", "Write it like 2027-06-30.") from None
    if moment < timedelta():
        raise UsageError(f"{day!r} is long over.", "Write a day like 2027-06-30.")
    return moment // timedelta(milliseconds=1)


def _off(discount: Discount, currency: str) -> str:
    return format_rate(discount.rate) if discount.rate else format_amount(discount.amount, currency)


def _fields(discount: Discount, currency: str) -> dict[str, Any]:
    fields = asdict(discount)
    del fields["number"]
    return fields | {"currency": currency}
