"""Puts the demo's goods on sale in a merchant's home: `python -m veilmart.demo.stock --home HOME`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.money import parse_amount
from merchant_node.run import MerchantNode
from veilmart.demo.goods import SPORTS, Goods, make_files


def stock(home: Path, goods: Sequence[Goods], files: Mapping[str, Path]) -> None:
    """Put each of `goods` on sale; `files` gives SKU -> path. A photo is its own picture."""
    node = MerchantNode.open(home)
    try:
        present = {item.record.sku for item in node.inventory.products()}
        for item in goods:
            if item.sku in present:
                continue
            path = files[item.sku]
            picture = path if path.suffix == ".png" else None
            node.inventory.add(
                path,
                item.sku,
                title=item.title,
                price=parse_amount(item.price, node.shop.currency),
                category=item.category,
                tags=item.tags,
                description=item.description,
                image=picture,
                image_alt=item.title if picture else "",
            )
    finally:
        node.close()


def main() -> None:
    """Stock a merchant with the sports shop's goods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home: Path = parser.parse_args().home
    with tempfile.TemporaryDirectory() as folder:
        stock(home, SPORTS, make_files(SPORTS, Path(folder)))


if __name__ == "__main__":
    main()
