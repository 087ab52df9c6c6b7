"""Tables of products, CSV (RFC 4180) or JSON: read row by row, and written so that they can be read again.

Rule 1. A row changes what its table has a column for, and nothing else. A column that is not known is a
fault: a misspelt price must not be left out in silence.

Rule 2. `file` names one of the files that came with the table, or the product's present one; `sha256` is of
a file that this shop has. Neither is ever a path.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET, UnsetType

from common.errors import UsageError
from common.money import parse_amount, parse_rate
from common.web.forms import FieldErrors
from merchant_node.bulk import Entry, Fault
from merchant_node.catalog import Product
from merchant_node.web import product_form

TEXTS: Final = {
    "title": 200,
    "description": 4000,
    "category": 200,
    "group": 200,
    "variant": 200,
    "image_alt": 200,
}
COLUMNS: Final = (
    *("sku", "title", "price", "currency", "tax", "category", "tags", "description", "group", "variant"),
    *("stock", "image_alt", "file", "sha256", "size"),
)
MOST_ROWS: Final = 100_000
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")

Raw = Mapping[str, str]
"""A row's cells by their columns; a column that its table does not have is not there."""


@dataclass(frozen=True)
class Content:
    """A file that a row may name: length in bytes, SHA-256 (zeros in a trial, which stores nothing)."""

    size: int
    digest: bytes


@dataclass(frozen=True)
class Context:
    """What rows are read against: `sent` by name; `present` on sale; `held` tells a file that is here."""

    currency: str
    sent: Mapping[str, Content]
    held: Callable[[bytes], Content | None]


# --- reading -------------------------------------------------------------------------------------------


def rows(data: bytes) -> list[tuple[int, Raw]]:
    """Read a table, with the number of each row as a person counts. Raises `UsageError`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("The table is not in UTF-8.", "Save it as CSV in UTF-8, or as JSON.") from None
    found = list(_json_rows(text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(text))
    if not found:
        raise UsageError("The table has no row.", "Write one row for each product, below the header.")
    if len(found) > MOST_ROWS:
        raise UsageError(f"The table has more than {MOST_ROWS} rows.", "Import it in parts.")
    unknown = {name for _, row in found for name in row} - set(COLUMNS)
    if unknown:
        names = ", ".join(sorted(str(name) for name in unknown)[:5])
        raise UsageError(f"Unknown columns: {names}.", f"The columns are {', '.join(COLUMNS)}.")
    return found


def _csv_rows(text: str) -> Iterator[tuple[int, Raw]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if len(set(names)) != len(names):
            raise UsageError("Two columns have one name.", "Give each column a name of its own.")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) > len(names):
                raise UsageError(
                    f"Line {reader.line_num} has more cells than the header.", "Quote its commas."
                )
            yield reader.line_num, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise UsageError(f"Line {reader.line_num} is no CSV: {error}.", "Save the table anew.") from error


def _json_rows(text: str) -> Iterator[tuple[int, Raw]]:
    try:
        # Numbers stay as they are written: a price is never a float.
        found = json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        raise UsageError("The table is no JSON.", "Write a list of objects, one for each product.") from None
    listed = found.get("products") if isinstance(found, dict) else found
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UsageError("The table is no list of objects.", "Write one object for each product.")
    for number, each in enumerate(listed, 1):
        yield number, {name: _cell(value) for name, value in each.items()}


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(each) for each in value)
    return "" if value is None else str(value)


def entries(
    table: Iterable[tuple[int, Raw]], context: Context, present: Mapping[str, Product]
) -> tuple[list[Entry], list[Fault]]:
    """Read each row's cells: what they say, and every fault in them."""
    read: list[Entry] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for number, row in table:
        sku = row.get("sku", "").strip()
        wrong: dict[str, str] = {}
        if sku in seen:
            wrong["sku"] = "Another row has this SKU."
        seen.add(sku)
        entry = _entry(number, sku, row, context, present.get(sku), wrong)
        if wrong:
            faults += [Fault(number, sku[:64], column, text) for column, text in wrong.items()]
        else:
            read.append(entry)
    return read, faults


def _entry(
    number: int, sku: str, row: Raw, context: Context, product: Product | None, wrong: dict[str, str]
) -> Entry:
    reader = _RowReader(row, context, product, wrong)
    try:
        product_form.sku_of(sku)
    except FieldErrors as error:
        wrong.setdefault("sku", error.faults["sku"])
    fields = reader.texts() | reader.numbers() | reader.content()
    stock: int | UnsetType | None = UNSET
    if "stock" in row:
        stock = reader.take("stock", product_form.stock_of)
    return Entry(number, sku, fields, stock)


@dataclass(frozen=True)
class _RowReader:
    """Reads the cells of one row into fields of `Draft`, and what is wrong with them into `wrong`."""

    row: Raw
    context: Context
    product: Product | None
    wrong: dict[str, str]

    def take(self, name: str, read: Callable[[str], Any]) -> Any:
        try:
            return read(self.row[name].strip())
        except FieldErrors as error:
            self.wrong.setdefault(name, next(iter(error.faults.values())))
        except UsageError as error:
            self.wrong.setdefault(name, error.hint or error.message)
        return None

    def texts(self) -> dict[str, Any]:
        fields: dict[str, Any] = {name: self.row[name].strip() for name in TEXTS if name in self.row}
        for name, text in fields.items():
            if len(text) > TEXTS[name]:
                self.wrong[name] = f"At most {TEXTS[name]} characters."
        if (self.product is None or "title" in self.row) and not fields.get("title"):
            self.wrong["title"] = "Give it a title."
        if "tags" in self.row:
            fields["tags"] = self.take("tags", product_form.tags_of)
        return fields

    def numbers(self) -> dict[str, Any]:
        currency, fields = self.context.currency, {}
        if "price" in self.row:
            fields["price"] = self.take("price", lambda text: parse_amount(text, currency))
        elif self.product is None:
            self.wrong["price"] = "Give it a price."
        if self.row.get("tax", "").strip():
            fields["tax_rate"] = self.take("tax", parse_rate)
        if self.row.get("currency", currency).strip() not in ("", currency):
            self.wrong["currency"] = f"The market's currency is {currency}."
        return fields

    def content(self) -> dict[str, Any]:
        """Give the file that the row names, nothing where it is the one that the product has."""
        named, digest = self.row.get("file", "").strip(), self.row.get("sha256", "").strip()
        name = product_form.plain_name(named) if named else ""
        present = self.product.record.file_name if self.product is not None else ""
        if digest:
            return self._held(digest, name or present or self.row.get("sku", "").strip())
        if not name or (name == present and name not in self.context.sent):
            return {}
        sent = self.context.sent.get(name)
        if sent is None:
            self.wrong["file"] = "No file of this name came with the table."
            return {}
        return {"file_name": name, "size": sent.size, "digest": sent.digest}

    def _held(self, digest: str, name: str) -> dict[str, Any]:
        if not _SHA256.fullmatch(digest):
            self.wrong["sha256"] = "A SHA-256 has 64 digits, 0 to 9 and a to f."
            return {}
        found = self.context.held(bytes.fromhex(digest))
        if found is None:
            self.wrong["sha256"] = "This shop has no such file: send it along, and name it in `file`."
            return {}
        return {"file_name": name, "size": found.size, "digest": found.digest}


# --- writing -------------------------------------------------------------------------------------------


def product_cells(product: Product, left: int | None, currency: str) -> dict[str, str]:
    """Give a product as a row."""
    record = product.record
    written = product_form.written(record, left, currency)
    return {name: written[name] for name in written if name in COLUMNS} | {
        "currency": record.currency,
        "file": record.file_name,
        "sha256": record.digest.hex(),
        "size": str(record.size),
    }


def csv_lines(names: Sequence[str], cells: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Write CSV, line by line."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(names)
    for row in cells:
        writer.writerow([row.get(name, "") for name in names])
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def json_pieces(items: Iterable[object]) -> Iterator[str]:
    """Write a list, item by item."""
    between = "[\n"
    for item in items:
        yield between + json.dumps(item, ensure_ascii=False)
        between = ",\n"
    yield "\n]\n" if between == ",\n" else "[]\n"
