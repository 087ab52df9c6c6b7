#!/usr/bin/env python3
"""Mirror the catalogs of all merchants: a line of JSON for each product, and its picture beside it.

    python examples/mirror.py catalog --profile profile --max-tickets 8

`catalog/<merchant>.jsonl` has a merchant's products, `catalog/pictures/` their pictures by digest. A
merchant whose catalog has not changed since the last run is not asked at all: that takes no ticket. Files are
replaced whole, so that whoever reads them sees one state. Exit code: 0 all is mirrored, 6 a merchant was away
and keeps its old lines, 4 there were too few tickets for all of them: run it again when there are more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from customer_node import Market, NotFoundError, OutOfTicketsError, UnreachableError, VeilmartError
from customer_node.views import MerchantView

PAGE = 200
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def replace(path: Path, content: bytes) -> None:
    """Put a file in its place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


class Mirror:
    """A folder with catalogs, and the versions that they are of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "versions.json"
        self.versions: dict[str, int] = json.loads(self.state.read_text()) if self.state.exists() else {}

    def is_current(self, merchant: MerchantView) -> bool:
        """Tell whether the mirror has a merchant's present catalog."""
        return self.versions.get(merchant.id) == merchant.catalog_version

    def picture(self, market: Market, merchant: str, sku: str) -> str | None:
        """Fetch a product's picture; gives its file's name."""
        try:
            image = market.image(merchant, sku)
        except NotFoundError:
            return None
        name = hashlib.sha256(image.data).hexdigest() + SUFFIXES.get(image.media_type, ".img")
        replace(self.folder / "pictures" / name, image.data)
        return name

    def fetch(self, market: Market, merchant: MerchantView) -> int:
        """Mirror one merchant, product by product; pictures of known records are not fetched again."""
        path = self.folder / f"{merchant.id}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        before = {product["record"]: product for product in map(json.loads, lines)}
        products: list[dict[str, Any]] = []
        total, offset = 1, 0
        while offset < total:
            page = market.search(merchant=merchant.id, limit=PAGE, offset=offset)
            for found in page.products:
                try:
                    view = asdict(market.show(merchant.id, found.sku))
                except NotFoundError:
                    continue  # taken off sale meanwhile
                del view["stock"]  # of this moment alone: no catalog changes with it
                known = before.get(view["record"])
                picture = known["picture"] if known else None
                if found.image and picture is None:
                    picture = self.picture(market, merchant.id, found.sku)
                products.append(view | {"picture": picture})
            total, offset = page.total, offset + PAGE
        replace(path, "".join(json.dumps(each) + "\n" for each in products).encode())
        self.versions[merchant.id] = merchant.catalog_version
        replace(self.state, json.dumps(self.versions).encode())
        return len(products)


def mirror(wanted: argparse.Namespace) -> int:
    """Mirror every merchant whose catalog is another one than at the last run."""
    result, asked = 0, 0
    copy = Mirror(wanted.folder)
    with Market(wanted.profile) as market:
        for merchant in market.merchants():
            if copy.is_current(merchant):
                print(f"{merchant.id}: unchanged")
                continue
            if asked == wanted.max_tickets:
                raise OutOfTicketsError(f"{asked} tickets were agreed to.", "Raise --max-tickets.")
            asked += 1  # a visit that is still open takes none
            try:
                print(f"{merchant.id}: {copy.fetch(market, merchant)} products")
            except UnreachableError as error:
                print(f"{merchant.id}: {error.message}", file=sys.stderr)
                result = error.exit_code
    return result


def main() -> int:
    """Read the command line and give the exit code."""
    parser = argparse.ArgumentParser(description="Mirror the catalogs of all merchants.")
    parser.add_argument("folder", type=Path, help="where the mirror is or shall be")
    parser.add_argument("--profile", type=Path, default=Path(os.environ.get("VEILMART_PROFILE", "profile")))
    parser.add_argument("--max-tickets", type=int, default=8, help="merchants that are asked at most")
    try:
        return mirror(parser.parse_args())
    except VeilmartError as error:
        print(f"{error.code}: {error.message} {error.hint}".rstrip(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
