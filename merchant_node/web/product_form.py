"""The form of a product: read, checked field by field, and written again for who corrects it.

Rule. A file's name comes from whoever sends it. It becomes a text of the signed record, cut and without
folders; no path here or anywhere is made of it.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET, UnsetType
from starlette.datastructures import UploadFile

from common import messages
from common.errors import UntrustedError, UsageError
from common.money import format_amount, format_rate, parse_amount, parse_rate
from common.web import images
from common.web.forms import FieldErrors, Form
from merchant_node.content import IMAGE_MAXIMUM, Upload
from merchant_node.inventory import LARGEST_STOCK

LARGEST_PICTURE: Final = 32 * 1024 * 1024
PICTURE_WIDTHS: Final = (960, 720, 480, 320, 240)
LONGEST_FILE_NAME: Final = 120
_SKU: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LENGTHS: Final = {
    "title": 200,
    "description": 4000,
    "category": 200,
    "group": 200,
    "variant": 200,
    "image_alt": 200,
}
_MOST_TAGS: Final = 16
_LONGEST_TAG: Final = 40


@dataclass(frozen=True)
class Described:
    """What a form says: arguments for `Inventory.add` and `.edit`, and the stock (None: unlimited)."""

    sku: str
    fields: dict[str, Any]
    stock: int | UnsetType | None
    file: Upload | None
    image: Upload | None
    keys: Upload | None


def sku_of(text: str) -> str:
    """Check a SKU. Raises `FieldErrors`."""
    if not _SKU.fullmatch(text):
        raise FieldErrors({"sku": "Write 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first."})
    return text


def stock_of(text: str) -> int | None:
    """Read a stock; nothing and `unlimited` are no limit. Raises `FieldErrors`."""
    if text in ("", "unlimited"):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(LARGEST_STOCK))):
        raise FieldErrors({"stock": "Write a whole number from 0 on, or leave it empty for no limit."})
    if int(text) > LARGEST_STOCK:
        raise FieldErrors({"stock": f"Write at most {LARGEST_STOCK}, or leave it empty for no limit."})
    return int(text)


def tags_of(text: str) -> list[str]:
    """Read tags between commas. Raises `FieldErrors`."""
    tags = list(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
    if len(tags) > _MOST_TAGS or any(len(tag) > _LONGEST_TAG for tag in tags):
        raise FieldErrors({"tags": f"At most {_MOST_TAGS} tags, of at most {_LONGEST_TAG} characters each."})
    return tags


def described(entered: dict[str, str], currency: str, shop_rate: int) -> tuple[dict[str, Any], int | None]:
    """Read what was written: the fields, and the stock. Raises `FieldErrors`, for all faults at once."""
    faults: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for name, longest in _LENGTHS.items():
        fields[name] = entered.get(name, "").strip()
        if len(fields[name]) > longest:
            faults[name] = f"Write at most {longest} characters."
    if not fields["title"]:
        faults["title"] = "Give it a title: it is what customers read in lists."
    try:
        fields["price"] = parse_amount(entered.get("price", ""), currency)
    except UsageError as wrong:
        faults["price"] = f"Write a price like {plain_amount(999, currency)}. {wrong.hint}".strip()
    rate = entered.get("tax", "").strip()
    try:
        fields["tax_rate"] = parse_rate(rate) if rate else shop_rate
    except UsageError as wrong:
        faults["tax"] = wrong.hint
    stock: int | None = None
    try:
        fields["tags"] = tags_of(entered.get("tags", ""))
        stock = stock_of(entered.get("stock", "").strip())
    except FieldErrors as wrong:
        faults |= wrong.faults
    if faults:
        raise FieldErrors(faults)
    return fields, stock


def read(form: Form, currency: str, shop_rate: int, sku: str | None) -> Described:
    """Read the whole form; `sku` is the product's that is edited. Raises `FieldErrors`."""
    faults: dict[str, str] = {}
    stock: int | UnsetType | None = UNSET
    fields: dict[str, Any] = {}
    try:
        fields, stock = described(form.entered, currency, shop_rate)
    except FieldErrors as wrong:
        faults |= wrong.faults
    if sku is not None and form.text("stock") == form.text("stock_before"):
        # What was sold since the page was made is sold: only a stock that was written is set.
        stock = UNSET
    try:
        named = sku_of(form.text("sku")) if sku is None else sku
    except FieldErrors as wrong:
        named, faults = "", faults | wrong.faults
    sent = form.files("file")
    keys = form.files("keys")
    if sku is None and not sent and not keys:
        faults["file"] = "Choose the file that is sold, or a list of keys below."
    if sku is None and keys and form.text("stock"):
        faults["stock"] = "Leave it empty: the stock is what is left of the keys."
    image = None
    try:
        image = picture(form.files("image"))
    except FieldErrors as wrong:
        faults |= wrong.faults
    if faults:
        raise FieldErrors(faults)
    return Described(
        named, fields, stock, upload(sent[0]) if sent else None, image, upload(keys[0]) if keys else None
    )


def upload(sent: UploadFile) -> Upload:
    """Give a file that was sent, under a name that is none of a path."""
    return Upload(plain_name(sent.filename or ""), sent.file)


def plain_name(name: str) -> str:
    """Give the last part of a name, printable and short, its ending kept."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(char for char in last if char.isprintable()).strip(" .") or "file"
    if len(plain) > LONGEST_FILE_NAME:
        stem, dot, ending = plain.rpartition(".")
        kept = f"{dot}{ending}" if dot and len(ending) <= 10 else ""  # noqa: PLR2004 - no ending is longer
        plain = (stem if kept else plain)[: LONGEST_FILE_NAME - len(kept)] + kept
    return plain


def picture(sent: list[UploadFile]) -> Upload | None:
    """Scale a picture that was sent until it fits into its answer. Raises `FieldErrors`."""
    if not sent:
        return None
    if (sent[0].size or 0) > LARGEST_PICTURE:
        raise FieldErrors({"image": f"Choose a picture of at most {LARGEST_PICTURE >> 20} MiB."})
    return smaller(sent[0].file.read(LARGEST_PICTURE))


def smaller(data: bytes) -> Upload:
    """Scale a picture until it fits into its answer. Raises `FieldErrors`."""
    try:
        for width in PICTURE_WIDTHS:
            made = images.scaled(data, width)
            if len(made.data) <= IMAGE_MAXIMUM:
                return Upload("picture.webp", io.BytesIO(made.data))
    except UntrustedError:
        raise FieldErrors({"image": "Choose a picture: PNG, JPEG or WebP."}) from None
    raise FieldErrors({"image": "This picture cannot be made small enough. Choose another one."})


def plain_amount(amount: int, currency: str) -> str:
    """Write an amount as a field has it, without its currency."""
    return format_amount(amount, currency).removesuffix(f" {currency}")


def written(record: messages.ProductRecord, stock: int | None, currency: str) -> dict[str, str]:
    """Write a product as its form has it."""
    number = "" if stock is None else str(stock)
    return {
        "sku": record.sku,
        "title": record.title,
        "description": record.description,
        "category": record.category,
        "tags": ", ".join(record.tags),
        "group": record.group,
        "variant": record.variant,
        "price": plain_amount(record.price, currency),
        "tax": format_rate(record.tax_rate).removesuffix(" %"),
        "image_alt": record.image_alt,
        "stock": number,
        "stock_before": number,
    }
