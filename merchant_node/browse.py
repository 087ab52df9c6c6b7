"""Answers to those who look around: pages, products, images. Nothing is remembered of them.

Rule. A request that cannot be opened, or that asks here for what belongs elsewhere, is dropped and
counted: there is no key to answer it under, or nobody who would understand the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from common import config, messages
from common.clock import Random
from common.errors import ForgedError
from common.sealing import AnswerKey, open_request
from common.store import Tx
from merchant_node import stock
from merchant_node.catalog import Catalog, Page, Product, detail_answer, page_answer
from merchant_node.content import ContentFolder, media_type
from merchant_node.discounts import Redemptions
from merchant_node.prekeys import Prekeys
from merchant_node.pricing import answer_quote
from merchant_node.shop import Shop


@dataclass(frozen=True)
class _Question:
    forward: messages.Forward
    key: AnswerKey
    size: int
    found: Page | Product | messages.ProductImage | messages.GetQuote | None


class Browse:
    """Opens `Forward`s and answers them in bulk."""

    def __init__(self, shop: Shop, prekeys: Prekeys, catalog: Catalog, content: ContentFolder) -> None:
        self._currency = shop.currency
        self._binding = shop.binding("browse")
        self._prekeys = prekeys
        self._catalog = catalog
        self._content = content

    def answer_all(
        self, tx: Tx, forwards: Sequence[messages.Forward], now: int, random: Random, refused: Counter[str]
    ) -> list[messages.Message]:
        """Answer a batch; `now` is the broker's time, `refused` counts what was dropped."""
        if not forwards:
            return []
        self._catalog.refresh(tx)
        questions: list[_Question] = []
        for forward in forwards:
            try:
                questions.append(self._open(forward))
            except ForgedError as error:
                refused[error.reason] += 1
        left = stock.available(tx, (sku for question in questions for sku in _shown(question)))
        quotes = [each.found for each in questions if isinstance(each.found, messages.GetQuote)]
        redemptions = Redemptions(tx, (quote.code for quote in quotes))
        return [
            messages.AnswerForward(
                reference=question.forward.reference,
                token=question.forward.token,
                answer=question.key.seal(
                    self._answer(question, left, redemptions, now), random(32), size=question.size
                ),
            )
            for question in questions
        ]

    def _open(self, forward: messages.Forward) -> _Question:
        body, key = open_request(self._prekeys.browse.by_id, self._binding, forward.sealed)
        match body:
            case messages.ListProducts():
                return _Question(forward, key, config.PAGE_ANSWER, self._catalog.find(body))
            case messages.GetProduct(sku=sku):
                return _Question(forward, key, config.PRODUCT_ANSWER, self._catalog.get(sku))
            case messages.GetImage(sku=sku):
                return _Question(forward, key, config.IMAGE_ANSWER, self._image(sku))
            case messages.GetQuote():
                return _Question(forward, key, config.PRODUCT_ANSWER, body)
            case _:
                raise ForgedError("cannot open")

    def _image(self, sku: str) -> messages.ProductImage | None:
        product = self._catalog.get(sku)
        if product is None or not product.record.image_digest:
            return None
        try:
            image = self._content.image(product.record.image_digest)
        except OSError as error:
            structlog.get_logger("veilmart.merchant").error("cannot read an image", error=error.strerror)
            return None
        return messages.ProductImage(media_type=media_type(image), data=image)

    def _answer(
        self, question: _Question, left: dict[str, int], redemptions: Redemptions, now: int
    ) -> messages.SealedAnswer:
        match question.found:
            case Page() as page:
                return page_answer(page, self._catalog.version, left)
            case Product() as product:
                return detail_answer(product, left)
            case messages.ProductImage() as image:
                return image
            case messages.GetQuote() as asked:
                return answer_quote(self._catalog, asked, left, redemptions, self._currency, now)
            case None:
                return messages.RequestRefused(code="not_found")


def _shown(question: _Question) -> Sequence[str]:
    """Give the SKUs whose stock the answer shows."""
    match question.found:
        case Page(products=products):
            return [product.record.sku for product in products]
        case Product() as product:
            return [product.record.sku]
        case messages.GetQuote(lines=lines):
            return [line.sku for line in lines]
        case _:
            return []
