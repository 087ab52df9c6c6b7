"""One example of every message, and where each may stand."""

from __future__ import annotations

from typing import Any, get_args

from common import codec, config, messages
from common.messages import Message, Part

ID = bytes(range(16))
KEY = bytes(range(8))
HASH = bytes(range(32))
RSA = bytes(range(256))
SEALED = b"sealed: " + bytes(40)
TOKEN = messages.Token(key_id=KEY, prefix=HASH, serial=HASH[::-1], signature=RSA)
BLINDED = messages.BlindedToken(key_id=KEY, blinded=RSA)
X_WING = bytes(1216)
REPLY = bytes(range(76))
TIME = 1_800_000_000_000
CARD = messages.PaymentCard(
    number="4242424242424242", month=12, year=2034, security_code="123", name="Alice Liddell"
)
SUMMARY = messages.ProductSummary(
    sku="GPX-1",
    title="Ridge",
    category="Routes",
    tags=["hike"],
    variant="",
    price=450,
    stock="low",
    image=True,
)
LINE = messages.OrderLine(sku="GPX-1", record=HASH, quantity=2, unit_price=450, discount=90)
QUOTE_LINE = messages.QuoteLine(sku="GPX-1", quantity=2)
TAX = messages.Tax(rate=1900, base=681, amount=129)
QUOTED_LINE = messages.QuotedLine(
    sku="GPX-1",
    record=HASH,
    quantity=2,
    unit_price=450,
    discount=90,
    amount=810,
    tax=TAX,
    stock="in",
)
RECEIPT_LINE = messages.ReceiptLine(
    sku="GPX-1",
    title="Ridge",
    record=HASH,
    quantity=2,
    unit_price=450,
    discount=90,
    amount=810,
    tax=TAX,
    file_name="ridge.gpx",
    size=12_345,
    digest=HASH,
    first_cell=0,
    cells=1,
)
SLOT_KEY = messages.SlotKey(slot=TIME, public=X_WING)
STATEMENT_LINE = messages.StatementLine(
    line=8, at=TIME, kind="settled", reference=ID, pending=0, available=878, reserved=100
)
TOTAL = messages.CoinTotal(value=64, month="2027-01", issued=40, spent=20)
EVIDENCE = messages.Evidence(
    certificate=bytes(400),
    receipt=bytes(200),
    signature=bytes(64),
    records=[messages.SignedRecord(record=bytes(200), signature=bytes(64))],
)
WRONG_FILE = messages.WrongFile(sku="PLAN-10K", keys=False, digest=HASH)
ARRIVED = messages.Arrived(cells=12, expected=12, wrong=[WRONG_FILE])
ISSUER = messages.IssuerKey(key_id=KEY, purpose="coin", value=64, month="2027-01", public=bytes(294))
LOG_IN = messages.LogIn(name="alice", password="correct horse", device=HASH, code="")

BATCH = messages.IssuedBatch(number=4, coins=[RSA] * 2, tickets=[RSA])

_EXAMPLES: tuple[Message | Part, ...] = (
    TOKEN,
    BLINDED,
    ISSUER,
    messages.SignUp(name="alice", password="correct horse", device=HASH, invite=b""),
    LOG_IN,
    messages.TicketCredential(ticket=TOKEN),
    messages.MerchantCredential(certificate=bytes(400), counter=3, signature=bytes(64)),
    messages.Hello(secret=HASH, ephemeral=X_WING, credential=LOG_IN),
    messages.Welcome(session=ID, scope="shop", clock=TIME, expires=TIME, idle_ms=1, byte_budget=2**32),
    messages.HelloRefused(code="authentication", retry_after_ms=1000),
    messages.Envelope[messages.LogOut](id=ID, at=TIME, body=messages.LogOut(request=ID)),
    messages.Refused(reference=ID, code="double_spend"),
    messages.KeyRetired(reference=ID, key_id=bytes(8), month="2026-08", ended=1, exchange_until=0),
    messages.SessionEnded(code="revoked"),
    messages.GetBalance(request=ID),
    messages.Balance(request=ID, amount=0, currency="EUR", tickets_left=100),
    CARD,
    messages.TopUp(operation=ID, amount=5000, currency="EUR", card=CARD),
    messages.AskTopUp(operation=ID),
    messages.TopUpAnswer(
        operation=ID,
        state="charged",
        amount=5000,
        brand="visa",
        last_four="4242",
        charge="pi_000001",
        balance=5007,
    ),
    messages.Withdraw(operation=ID, coins=[BLINDED] * 2, tickets=[BLINDED]),
    messages.Withdrawn(operation=ID, coins=[RSA] * 2, tickets=[RSA], balance=7),
    messages.ChangePassword(
        request=ID, password="correct horse", new_password="battery staple", device=HASH, code=""
    ),
    messages.EnableTotp(request=ID, password="correct horse", secret=HASH[:20], code="287082"),
    messages.DisableTotp(request=ID, password="correct horse", code="287082"),
    messages.CloseAccount(request=ID, password="correct horse", code="287082"),
    messages.AccountChanged(request=ID),
    messages.BeginRestore(operation=ID),
    messages.RestoreBegun(operation=ID, count=2),
    messages.FetchIssued(request=ID, after=3),
    BATCH,
    messages.Issued(request=ID, batches=[BATCH], more=True),
    messages.LogOut(request=ID),
    messages.LoggedOut(request=ID),
    messages.AskMerchant(request=ID, merchant="sports", sealed=SEALED),
    messages.Forward(reference=ID, token=REPLY, sealed=SEALED),
    messages.AnswerForward(reference=ID, token=REPLY, answer=SEALED),
    messages.MerchantAnswer(request=ID, answer=SEALED),
    messages.PlaceOrder(
        order_id=ID,
        merchant="sports",
        amount=900,
        currency="EUR",
        deadline=TIME,
        coins=[TOKEN] * 2,
        claim_lock=HASH,
        status_lock=HASH,
        sealed=SEALED,
    ),
    messages.ForwardOrder(
        order_id=ID,
        amount=900,
        currency="EUR",
        deadline=TIME,
        claim_lock=HASH,
        status_lock=HASH,
        sealed=SEALED,
    ),
    messages.AnswerOrder(order_id=ID, verdict="accepted", answer=SEALED),
    messages.OrderAnswer(
        order_id=ID,
        state="captured",
        deadline=TIME,
        settles=TIME,
        refunded=300,
        claimed=100,
        decide_by=TIME,
        finding="nothing was shown",
        decision="",
        merchant_online=True,
        audit=ID,
        answer=SEALED,
    ),
    messages.OrderOutcome(order_id=ID, outcome="captured"),
    messages.OutcomeKept(order_id=ID, outcome="captured"),
    messages.AskOrder(order_id=ID, status_secret=HASH),
    messages.AnswerKept(order_id=ID, status_secret=HASH),
    messages.ConfirmDelivery(order_id=ID, status_secret=HASH),
    messages.CancelOrder(order_id=ID, claim_secret=HASH),
    messages.SignedRecord(record=bytes(200), signature=bytes(64)),
    EVIDENCE,
    WRONG_FILE,
    ARRIVED,
    messages.OpenDispute(
        order_id=ID,
        attempt=ID,
        claim_secret=HASH,
        kind="wrong_content",
        statement="It is another file",
        evidence=[EVIDENCE],
        arrived=[ARRIVED],
    ),
    messages.DisputeOpened(order_id=ID, kind="not_delivered", decide_by=TIME, arrived=[ARRIVED]),
    messages.AnswerDispute(order_id=ID, statement="It was fetched"),
    messages.DisputeAnswered(order_id=ID),
    messages.RefundOrder(order_id=ID, refund=ID, amount=300),
    messages.RefundTaken(refund=ID, amount=300, left=600),
    messages.ClaimRefund(operation=ID, order_id=ID, claim_secret=HASH, blinded=[BLINDED]),
    messages.RefundIssued(operation=ID, signatures=[RSA]),
    messages.Swap(operation=ID, coins=[TOKEN], blinded=[BLINDED]),
    messages.Swapped(operation=ID, signatures=[RSA]),
    messages.RepeatSwap(operation=ID),
    messages.FindOrder(order_id=ID, claim_secret=HASH, after=4),
    messages.OrderFound(
        order_id=ID, state="refundable", amount=900, deadline=TIME, due=900, claims=[[RSA]], more=False
    ),
    messages.FetchCells(request=ID, merchant="sports", cells=8, sealed=SEALED),
    messages.ForwardFetch(reference=ID, token=REPLY, cells=8, sealed=SEALED),
    messages.Cells(reference=ID, token=REPLY, cells=[bytes(100)]),
    messages.MerchantCells(request=ID, cells=[bytes(100)]),
    messages.FetchRefused(reference=ID, token=REPLY, answer=SEALED),
    messages.GetStatement(request=ID, after=7),
    STATEMENT_LINE,
    messages.Statement(request=ID, after=7, lines=[STATEMENT_LINE], last=9, commission_basis_points=250),
    messages.RequestPayout(payout_id=ID, amount=900, destination="DE02 1203 0000 0000 2020 51"),
    messages.PayoutAnswer(payout_id=ID, state="rejected", reason="the account is closed"),
    messages.PayoutRefused(payout_id=ID, code="insufficient_funds"),
    messages.ListProducts(search="ridge", category="", sort="price", offset=0),
    messages.GetProduct(sku="GPX-1"),
    messages.GetImage(sku="GPX-1"),
    QUOTE_LINE,
    messages.GetQuote(lines=[QUOTE_LINE], code="SUMMER-25"),
    LINE,
    messages.OrderRequest(lines=[LINE], code="SUMMER-25", fetch_lock=HASH),
    messages.GetCells(order_id=ID, fetch_secret=HASH, first=0, count=8),
    messages.SealedRequest(answer_secret=HASH, body=messages.GetProduct(sku="GPX-1")),
    messages.ProductRecord(
        merchant="sports",
        sku="GPX-1",
        version=1,
        title="Ridge",
        description="A ridge walk",
        category="Routes",
        tags=["hike", "summer"],
        group="",
        variant="",
        price=450,
        currency="EUR",
        tax_rate=1900,
        file_name="ridge.gpx",
        size=12_345,
        digest=HASH,
        cells=1,
        image_digest=b"",
        image_alt="",
    ),
    SUMMARY,
    messages.ProductPage(
        catalog_version=TIME, total=1, next_offset=0, categories=["Routes"], products=[SUMMARY]
    ),
    messages.ProductDetail(record=bytes(200), signature=bytes(64), stock="in"),
    messages.ProductImage(media_type="image/png", data=b"png"),
    TAX,
    QUOTED_LINE,
    messages.Quote(
        lines=[QUOTED_LINE],
        subtotal=900,
        discount=90,
        taxes=[TAX],
        total=810,
        currency="EUR",
        valid_until=TIME,
    ),
    RECEIPT_LINE,
    messages.Receipt(
        market=ID,
        merchant="sports",
        order_id=ID,
        lines=[RECEIPT_LINE],
        subtotal=900,
        discount=90,
        taxes=[TAX],
        total=810,
        currency="EUR",
        at=TIME,
    ),
    messages.OrderAccepted(receipt=bytes(200), signature=bytes(64)),
    messages.OrderRejected(code="price_changed", sku="GPX-1", price=500, available=3),
    messages.RequestRefused(code="not_yet"),
    SLOT_KEY,
    TOTAL,
    messages.BrokerCard(
        market=ID,
        issued=TIME,
        not_after=TIME + 1,
        currency="EUR",
        hello_keys=[SLOT_KEY],
        issuer_keys=[ISSUER],
        log_key=HASH,
        order_deadline_ms=config.DAY_MS,
        commission_basis_points=250,
        totals_at=TIME - 1,
        totals=[TOTAL],
    ),
    messages.SpentChunk(market=ID, issued=TIME, not_after=TIME + 1, key_id=KEY, number=0, marks=bytes(8192)),
    messages.MerchantCard(
        market=ID,
        merchant="sports",
        issued=TIME,
        not_after=TIME + 1,
        name="Sports",
        description="Plans",
        browse_prekeys=[SLOT_KEY],
        order_prekeys=[SLOT_KEY],
        catalog_version=TIME,
    ),
)

EXAMPLES: dict[str, Message | Part] = {type(example).__name__: example for example in _EXAMPLES}

UNIONS: dict[str, tuple[codec.Codec[Any], frozenset[type]]] = {
    name: (decoder, frozenset(get_args(union)))
    for name, decoder, union in (
        ("from account", codec.FROM_ACCOUNT, messages.FromAccount),
        ("from shop", codec.FROM_SHOP, messages.FromShop),
        ("from merchant", codec.FROM_MERCHANT, messages.FromMerchant),
        ("to account", codec.TO_ACCOUNT, messages.ToAccount),
        ("to shop", codec.TO_SHOP, messages.ToShop),
        ("to merchant", codec.TO_MERCHANT, messages.ToMerchant),
    )
}
"""The frames' decoders: each takes lists of envelopes with these bodies."""

PLAIN: dict[str, tuple[codec.Codec[Any], frozenset[type]]] = {
    "hello": (codec.HELLO, frozenset({messages.Hello})),
    "hello answer": (codec.HELLO_ANSWER, frozenset(get_args(messages.HelloAnswer))),
    "sealed request": (codec.SEALED_REQUEST, frozenset({messages.SealedRequest})),
    "sealed answer": (codec.SEALED_ANSWER, frozenset(get_args(messages.SealedAnswer))),
    "product record": (codec.PRODUCT_RECORD, frozenset({messages.ProductRecord})),
    "receipt": (codec.RECEIPT, frozenset({messages.Receipt})),
    "broker card": (codec.BROKER_CARD, frozenset({messages.BrokerCard})),
    "merchant card": (codec.MERCHANT_CARD, frozenset({messages.MerchantCard})),
}
"""The other decoders: each takes one value."""


def every_class() -> set[str]:
    """Give the name of every message and part that `common.messages` defines."""
    found: set[str] = set()
    todo: list[type] = [Message, Part]
    while todo:
        for subclass in todo.pop().__subclasses__():
            todo.append(subclass)
            if subclass.__module__ == messages.__name__:
                found.add(subclass.__name__.partition("[")[0])
    return found


def envelope(body: Any) -> Any:
    return messages.Envelope(id=ID, at=TIME, body=body)
