"""Every message of Veilmart, in the order in which an order travels. START HERE.

    customer                        broker                          merchant
       | Hello ----------------------->|<----------------------- Hello |   who are you (HPKE to the broker)
       |<-------------- Welcome |      |      | Welcome -------------->|   you may do this, until then
       |                               |                               |
       | TopUp ----------------------->|                               |   account scope: card -> balance
       |<----------------- TopUpAnswer |                               |
       | Withdraw -------------------->|                               |   ... balance -> coins
       |<------------------- Withdrawn |                               |
       :      (another connection, another session, another day)       :
       | AskMerchant ----------------->| Forward --------------------->|   shop scope: browse, sealed
       |<-------------- MerchantAnswer |<--------------- AnswerForward |
       | PlaceOrder ------------------>| ForwardOrder ---------------->|   coins are spent, money is held
       |<----------------- OrderAnswer |<----------------- AnswerOrder |   accepted: captured; else refundable
       | AnswerKept ------------------>| OrderOutcome ---------------->|   only now is the merchant paid ...
       |                               |<----------------- OutcomeKept |
       | FetchCells ------------------>| ForwardFetch ---------------->|   ... only now are cells served
       |<--------------- MerchantCells |<----------------------- Cells |   (on a second connection)
       | ConfirmDelivery ------------->|                               |   settled: now it may be paid out

Rules of every message. Frozen; a field's type bounds its size, and a message that breaks a bound is
refused before any code sees it. On the wire a message is a msgpack array `[name, field, field, ...]`,
fields in the order written here, none left out and none added. (A field with a default was added to a
signed part later: it is always written, and where an older part lacks it the default counts.) Times are
milliseconds since 1970 on the broker's clock, amounts minor units of the market's currency. Nothing in the
account union names an order, nothing in the shop union an account: the two cannot even be decoded in each
other's place.

What stands under "Sealed" travels inside `sealed` and `answer` fields, readable by the customer and the
merchant alone (`common.sealing`).
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

from msgspec import Meta, Struct, field

from common import config

Id: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
KeyId: TypeAlias = Annotated[bytes, Meta(min_length=8, max_length=8)]
Bytes32: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
RsaBlock: TypeAlias = Annotated[bytes, Meta(min_length=256, max_length=256)]
XWingPublic: TypeAlias = Annotated[bytes, Meta(min_length=1216, max_length=1216)]
MerchantId: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
Sku: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Currency: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Z]{3}\Z")]
Amount: TypeAlias = Annotated[int, Meta(gt=0, le=config.MAXIMUM_AMOUNT)]
Price: TypeAlias = Annotated[int, Meta(ge=0, le=config.MAXIMUM_AMOUNT)]
TaxRate: TypeAlias = Annotated[int, Meta(ge=0, le=config.WHOLE_IN_BASIS_POINTS)]
DiscountCode: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Z0-9][A-Z0-9-]{3,31}\Z")]
OptionalCode: TypeAlias = Annotated[str, Meta(pattern=r"\A([A-Z0-9][A-Z0-9-]{3,31})?\Z")]
Quantity: TypeAlias = Annotated[int, Meta(ge=1, le=config.MAXIMUM_QUANTITY)]
Time: TypeAlias = Annotated[int, Meta(ge=0, le=2**52)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Password: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
OneTimeCode: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9]{6}\Z")]
OptionalOneTimeCode: TypeAlias = Annotated[str, Meta(pattern=r"\A([0-9]{6})?\Z")]
Title: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
ShortText: TypeAlias = Annotated[str, Meta(max_length=200)]
DecisionText: TypeAlias = Annotated[str, Meta(max_length=500)]
Plea: TypeAlias = Annotated[str, Meta(max_length=1000)]
CellCount: TypeAlias = Annotated[int, Meta(ge=0, le=2**33)]
LongText: TypeAlias = Annotated[str, Meta(max_length=4000)]
Sealed: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=config.MAXIMUM_SEALED)]
CellBytes: TypeAlias = Annotated[bytes, Meta(min_length=52, max_length=config.CELL_CONTENT + 52)]
CellGroup: TypeAlias = Annotated[list[CellBytes], Meta(min_length=1, max_length=config.CELLS_PER_FRAME)]
ReplyToken: TypeAlias = Annotated[bytes, Meta(min_length=76, max_length=76)]
Certificate: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=2048)]
Signature: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=384)]
Month: TypeAlias = Annotated[str, Meta(pattern=r"\A\d{4}-(0[1-9]|1[0-2])\Z")]
Scope: TypeAlias = Literal["account", "shop", "merchant"]
Body = TypeVar("Body")


class Message(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base of everything that travels: a frozen, bounded msgpack array that begins with its name."""


class Part(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """A bounded piece of a message, which its place identifies: no name in front."""


# --- Tokens: coins and tickets (common.coins, RFC 9474) ------------------------------------------------


class Token(Part, frozen=True):
    """A blind-signed coin or ticket, presented to be spent. Whoever shows it first owns it."""

    key_id: KeyId
    prefix: Bytes32
    serial: Bytes32
    signature: RsaBlock

    def __repr__(self) -> str:
        """Hide the token: it is bearer money."""
        return f"Token(key_id={self.key_id.hex()})"


class BlindedToken(Part, frozen=True):
    """What the wallet asks the broker to sign without seeing it."""

    key_id: KeyId
    blinded: RsaBlock


class IssuerKey(Part, frozen=True):
    """A public blind-signature key: one per purpose, value and calendar month."""

    key_id: KeyId
    purpose: Literal["coin", "ticket"]
    value: Price
    month: Month
    public: Annotated[bytes, Meta(min_length=256, max_length=512)]


# --- Opening a session (common.frames, broker_node.sessions) -------------------------------------------


class SignUp(Message, frozen=True):
    """Credential: open a new account and log in.

    `device` is a secret of this device for this account: whoever shows it later goes past the delays that
    strangers have caused. `invite` is empty where the market asks for none.
    """

    name: Name
    password: Password
    device: Bytes32
    invite: Annotated[bytes, Meta(max_length=16)]

    def __repr__(self) -> str:
        """Hide the password."""
        return "SignUp(...)"


class LogIn(Message, frozen=True):
    """Credential: log in to an account. `code` is the second factor's, or empty."""

    name: Name
    password: Password
    device: Bytes32
    code: OptionalOneTimeCode

    def __repr__(self) -> str:
        """Hide the password."""
        return "LogIn(...)"


class TicketCredential(Message, frozen=True):
    """Credential: a one-time ticket, which says nothing about who drew it."""

    ticket: Token


class MerchantCredential(Message, frozen=True):
    """Credential: a certificate, and a signature over market, hello key, the `Hello`'s keys, counter.

    `counter` rises with every `Hello` of this merchant, so that an old one cannot be played again.
    """

    certificate: Certificate
    counter: Annotated[int, Meta(ge=1, le=2**52)]
    signature: Signature


Credential: TypeAlias = SignUp | LogIn | TicketCredential | MerchantCredential


class Hello(Message, frozen=True):
    """customer, merchant -> broker, HPKE-sealed to the broker's hello key, padded to one size."""

    secret: Bytes32
    ephemeral: XWingPublic
    credential: Credential

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"Hello(credential={type(self.credential).__name__})"


class Welcome(Message, frozen=True):
    """broker -> customer, merchant: the session is open. Stored, and repeated byte for byte."""

    session: Id
    scope: Scope
    clock: Time
    expires: Time
    idle_ms: Annotated[int, Meta(ge=0, le=2**40)]
    byte_budget: Annotated[int, Meta(ge=0, le=2**50)]


class HelloRefused(Message, frozen=True):
    """broker -> customer, merchant: no session. `retry_after_ms` is 0 where trying again is no use."""

    code: RefusalCode
    retry_after_ms: Annotated[int, Meta(ge=0, le=2**40)]


HelloAnswer: TypeAlias = Welcome | HelloRefused

RefusalCode: TypeAlias = Literal[
    "authentication",
    "name_taken",
    "policy",
    "sign_up_closed",
    "invite",
    "balance_left",
    "busy",
    "revoked",
    "not_found",
    "given_up",
    "account_closed",
    "insufficient_funds",
    "out_of_tickets",
    "idempotency_conflict",
    "double_spend",
    "already_signed",
    "bad_token",
    "unknown_key",
    "wrong_amount",
    "wrong_currency",
    "wrong_secret",
    "wrong_state",
    "deadline",
    "merchant_offline",
    "byte_budget",
    "session_over",
    "no_gateway",
    "gateway_unavailable",
    "not_charged",
    "too_many_top_ups",
    "card_invalid",
    "card_expired",
    "card_security_code",
    "card_insufficient_funds",
    "card_declined",
    "payments_stopped",
]


class Envelope(Part, Generic[Body], frozen=True):
    """One send: a fresh id (a replay filter), the time on the broker's clock, and the message."""

    id: Id
    at: Time
    body: Body


class Refused(Message, frozen=True):
    """broker -> customer, merchant: what `reference` names was refused; nothing was changed."""

    reference: Id
    code: RefusalCode


class KeyRetired(Message, frozen=True):
    """broker -> customer: what `reference` shows is of a key whose grace was over at `ended`.

    Nothing was changed. Until `exchange_until` a `Swap` still takes such coins; 0 where none does.
    """

    reference: Id
    key_id: KeyId
    month: Month
    ended: Time
    exchange_until: Time


class SessionEnded(Message, frozen=True):
    """broker -> customer, merchant: this session is over; open another one."""

    code: RefusalCode


# --- Account scope -------------------------------------------------------------------------------------


class GetBalance(Message, frozen=True):
    """customer -> broker."""

    request: Id


class Balance(Message, frozen=True):
    """broker -> customer."""

    request: Id
    amount: Price
    currency: Currency
    tickets_left: Annotated[int, Meta(ge=0, le=2**31)]


class PaymentCard(Part, frozen=True):
    """A payment card (`common.payment_cards`). It is charged and forgotten: no party stores it."""

    number: Annotated[str, Meta(pattern=r"\A[0-9]{12,19}\Z")]
    month: Annotated[int, Meta(ge=1, le=12)]
    year: Annotated[int, Meta(ge=2000, le=2199)]
    security_code: Annotated[str, Meta(pattern=r"\A[0-9]{3,4}\Z")]
    name: Name

    def __repr__(self) -> str:
        """Hide all of it."""
        return "PaymentCard(...)"


class TopUp(Message, frozen=True):
    """customer -> broker: charge this card once and credit my account.

    A repetition is told where the operation stands; another amount or card under `operation` is a
    conflict. Whoever has lost the card's data asks with `AskTopUp`.
    """

    operation: Id
    amount: Amount
    currency: Currency
    card: PaymentCard


class AskTopUp(Message, frozen=True):
    """customer -> broker: what became of this operation? One that is not known never will be charged."""

    operation: Id


class TopUpAnswer(Message, frozen=True):
    """broker -> customer: the charge is under way, or done and credited. One not made is `Refused`.

    `charge` is the gateway's id for it, empty until there is one; `balance` the account's by now.
    """

    operation: Id
    state: Literal["pending", "charged"]
    amount: Amount
    brand: Annotated[str, Meta(pattern=r"\A[a-z]{1,16}\Z")]
    last_four: Annotated[str, Meta(pattern=r"\A[0-9]{4}\Z")]
    charge: ShortText
    balance: Price


class Withdraw(Message, frozen=True):
    """customer -> broker: debit my account by the coins' sum and sign what is blinded.

    A repetition of the same bytes gets the same signatures; other bytes under `operation` a conflict.
    """

    operation: Id
    coins: Annotated[list[BlindedToken], Meta(max_length=config.MAXIMUM_COINS)]
    tickets: Annotated[list[BlindedToken], Meta(max_length=config.MAXIMUM_COINS)]


class Withdrawn(Message, frozen=True):
    """broker -> customer: blind signatures in the order asked for."""

    operation: Id
    coins: Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]
    tickets: Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]
    balance: Price


class ChangePassword(Message, frozen=True):
    """customer -> broker: from now on this password; every session of the account ends, this one too.

    `device` stays known, every other device is forgotten.
    """

    request: Id
    password: Password
    new_password: Password
    device: Bytes32
    code: OptionalOneTimeCode

    def __repr__(self) -> str:
        """Hide the passwords."""
        return "ChangePassword(...)"


class EnableTotp(Message, frozen=True):
    """customer -> broker: demand a second factor (RFC 6238) from now on; `code` is made with `secret`."""

    request: Id
    password: Password
    secret: Annotated[bytes, Meta(min_length=20, max_length=20)]
    code: OneTimeCode

    def __repr__(self) -> str:
        """Hide password and secret."""
        return "EnableTotp(...)"


class DisableTotp(Message, frozen=True):
    """customer -> broker: demand no second factor any more."""

    request: Id
    password: Password
    code: OneTimeCode

    def __repr__(self) -> str:
        """Hide the password."""
        return "DisableTotp(...)"


class CloseAccount(Message, frozen=True):
    """customer -> broker: close my account for good. Refused with `balance_left` while it holds anything."""

    request: Id
    password: Password
    code: OptionalOneTimeCode

    def __repr__(self) -> str:
        """Hide the password."""
        return "CloseAccount(...)"


class AccountChanged(Message, frozen=True):
    """broker -> customer: done, what `request` asked for."""

    request: Id


class BeginRestore(Message, frozen=True):
    """customer -> broker: a wallet of this account is being restored. Repeated, it counts once."""

    operation: Id


class RestoreBegun(Message, frozen=True):
    """broker -> customer: how often that has happened, this time included."""

    operation: Id
    count: Annotated[int, Meta(ge=1, le=2**31)]


class FetchIssued(Message, frozen=True):
    """customer -> broker: ask which signatures this account got, after the batch numbered `after`."""

    request: Id
    after: Annotated[int, Meta(ge=0, le=2**52)]


class IssuedBatch(Part, frozen=True):
    """What one withdrawal was answered: blind signatures, which only the wallet's seed unblinds."""

    number: Annotated[int, Meta(ge=1, le=2**52)]
    coins: Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]
    tickets: Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]


class Issued(Message, frozen=True):
    """broker -> customer: a page of them, oldest first."""

    request: Id
    batches: Annotated[list[IssuedBatch], Meta(max_length=config.ISSUED_PER_PAGE)]
    more: bool


class LogOut(Message, frozen=True):
    """customer -> broker: erase this session's keys."""

    request: Id


class LoggedOut(Message, frozen=True):
    """broker -> customer: the last frame of the session."""

    request: Id


# --- Shop scope: browsing (customer -> broker -> merchant and back) -----------------------------------


class AskMerchant(Message, frozen=True):
    """customer -> broker: relay this sealed request."""

    request: Id
    merchant: MerchantId
    sealed: Sealed


class Forward(Message, frozen=True):
    """broker -> merchant: a sealed request and an opaque token to answer to, fresh each time."""

    reference: Id
    token: ReplyToken
    sealed: Sealed


class AnswerForward(Message, frozen=True):
    """merchant -> broker."""

    reference: Id
    token: ReplyToken
    answer: Sealed


class MerchantAnswer(Message, frozen=True):
    """broker -> customer."""

    request: Id
    answer: Sealed


# --- Shop scope: an order ------------------------------------------------------------------------------


class PlaceOrder(Message, frozen=True):
    """customer -> broker: hold these coins for this order and forward what is sealed.

    Locks are SHA-256 of secrets that the wallet derives from one order secret: `claim_lock` for a
    refund, `status_lock` for questions. The order id alone authorises nothing.
    """

    order_id: Id
    merchant: MerchantId
    amount: Amount
    currency: Currency
    deadline: Time
    coins: Annotated[list[Token], Meta(min_length=1, max_length=config.MAXIMUM_COINS)]
    claim_lock: Bytes32
    status_lock: Bytes32
    sealed: Sealed


class ForwardOrder(Message, frozen=True):
    """broker -> merchant, until it answers. The outer fields are bound into the sealed part."""

    order_id: Id
    amount: Amount
    currency: Currency
    deadline: Time
    claim_lock: Bytes32
    status_lock: Bytes32
    sealed: Sealed


Verdict: TypeAlias = Literal["accepted", "rejected"]


class AnswerOrder(Message, frozen=True):
    """merchant -> broker: the verdict in the open, the reasons sealed. Repeated byte for byte."""

    order_id: Id
    verdict: Verdict
    answer: Annotated[bytes, Meta(max_length=config.MAXIMUM_SEALED)]
    """Empty where the request could not be opened: then there is no key to answer under."""


BrokerOrderState: TypeAlias = Literal["held", "captured", "disputed", "settled", "refundable", "refunded"]


class OrderAnswer(Message, frozen=True):
    """broker -> customer: where the order stands. `answer` is the merchant's, once there is one.

    `settles` is when captured money becomes the merchant's by itself, 0 where nothing does. `refunded` is how
    much of the amount was given back, `claimed` how much of that was drawn in coins. `decide_by` is when a
    dispute is to be decided, 0 where none is open; `finding` says what its evidence proves, `decision` why it
    ended. `audit` is the pseudonym under which the public events of this order appear.
    """

    order_id: Id
    state: BrokerOrderState
    deadline: Time
    settles: Time
    refunded: Price
    claimed: Price
    decide_by: Time
    finding: DecisionText
    decision: DecisionText
    merchant_online: bool
    audit: Id
    answer: Annotated[bytes, Meta(max_length=config.MAXIMUM_SEALED)]


Outcome: TypeAlias = Literal["captured", "settled", "refunded", "void"]
KeptOutcome: TypeAlias = Literal["captured", "disputed", "settled", "refunded", "void"]


class OrderOutcome(Message, frozen=True):
    """broker -> merchant, until `OutcomeKept`: you are paid, or the order is void: stock is free."""

    order_id: Id
    outcome: Outcome


class OutcomeKept(Message, frozen=True):
    """merchant -> broker: this outcome is stored here; stop repeating it."""

    order_id: Id
    outcome: KeptOutcome


class AskOrder(Message, frozen=True):
    """customer -> broker, from any shop session: where does this order stand? Answer: `OrderAnswer`."""

    order_id: Id
    status_secret: Bytes32

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"AskOrder(order_id={self.order_id.hex()})"


class AnswerKept(Message, frozen=True):
    """customer -> broker: the answer is stored here; it may be erased there."""

    order_id: Id
    status_secret: Bytes32

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"AnswerKept(order_id={self.order_id.hex()})"


class ConfirmDelivery(Message, frozen=True):
    """customer -> broker: every file of this order has the digest that was signed; pay the merchant.

    Answer: `OrderAnswer`. Said by the customer's machine when a download is complete.
    """

    order_id: Id
    status_secret: Bytes32

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"ConfirmDelivery(order_id={self.order_id.hex()})"


class CancelOrder(Message, frozen=True):
    """customer -> broker: call this order off, if it is still held. Answer: `OrderAnswer`."""

    order_id: Id
    claim_secret: Bytes32

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"CancelOrder(order_id={self.order_id.hex()})"


DisputeKind: TypeAlias = Literal["not_delivered", "wrong_content"]


class SignedRecord(Part, frozen=True):
    """A product record, as its merchant signed it."""

    record: Annotated[bytes, Meta(max_length=6 * config.KIB)]
    signature: Signature


class Evidence(Part, frozen=True):
    """What a merchant signed about an order: it shows the broker what was bought."""

    certificate: Certificate
    receipt: Annotated[bytes, Meta(max_length=32 * config.KIB)]
    signature: Signature
    records: Annotated[list[SignedRecord], Meta(max_length=config.MAXIMUM_LINES)]


class WrongFile(Part, frozen=True):
    """SHA-256 of what a customer says it got in place of a product's content, or of its licence keys.

    That of keys is over their salt and their text, as in the receipt.
    """

    sku: Sku
    keys: bool
    digest: Bytes32


class Arrived(Part, frozen=True):
    """What a customer says arrived of an order: how many cells of how many, and which files are wrong.

    A claim and no proof: cells are sealed under a key that customer and merchant share.
    """

    cells: CellCount
    expected: CellCount
    wrong: Annotated[list[WrongFile], Meta(max_length=2 * config.MAXIMUM_LINES)]


OptionalArrived: TypeAlias = Annotated[list[Arrived], Meta(max_length=1)]


class OpenDispute(Message, frozen=True):
    """customer -> broker: freeze this order's money, and decide. Answer: `OrderAnswer`.

    `evidence` and `arrived` are empty where the customer shows nothing of what was bought. `attempt` is
    random: a new try is another message than the one that was refused, whatever else is the same.
    """

    order_id: Id
    attempt: Id
    claim_secret: Bytes32
    kind: DisputeKind
    statement: Plea
    evidence: Annotated[list[Evidence], Meta(max_length=1)]
    arrived: OptionalArrived = field(default_factory=list)

    def __repr__(self) -> str:
        """Hide the secret, and what was bought."""
        return f"OpenDispute(order_id={self.order_id.hex()})"


class DisputeOpened(Message, frozen=True):
    """broker -> merchant, until `OutcomeKept` with `disputed`: its money is frozen; say your part.

    `arrived` is what the customer claims, where it showed the broker what was bought.
    """

    order_id: Id
    kind: DisputeKind
    decide_by: Time
    arrived: OptionalArrived

    def __repr__(self) -> str:
        """Hide what was bought."""
        return f"DisputeOpened(order_id={self.order_id.hex()})"


class AnswerDispute(Message, frozen=True):
    """merchant -> broker, until `DisputeAnswered` or `Refused`: what the merchant says to a dispute."""

    order_id: Id
    statement: Plea


class DisputeAnswered(Message, frozen=True):
    """broker -> merchant: the statement is stored."""

    order_id: Id


class RefundOrder(Message, frozen=True):
    """merchant -> broker: give this much of a paid order back; 0 is all that is left of it.

    A repetition of the same bytes gets the same answer; other bytes under `refund` a conflict.
    """

    order_id: Id
    refund: Id
    amount: Price


class RefundTaken(Message, frozen=True):
    """broker -> merchant: how much was given back, and what is left of the order."""

    refund: Id
    amount: Amount
    left: Price


class ClaimRefund(Message, frozen=True):
    """customer -> broker, from any shop session: blinded coins for what was given back of an order.

    An order may have several claims, each under an `operation` of its own.
    """

    operation: Id
    order_id: Id
    claim_secret: Bytes32
    blinded: Annotated[list[BlindedToken], Meta(min_length=1, max_length=config.MAXIMUM_COINS)]

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"ClaimRefund(order_id={self.order_id.hex()})"


class RefundIssued(Message, frozen=True):
    """broker -> customer: blind signatures in the order asked for."""

    operation: Id
    signatures: Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]


class Swap(Message, frozen=True):
    """customer -> broker: coins in, blinded coins of the same sum out."""

    operation: Id
    coins: Annotated[list[Token], Meta(min_length=1, max_length=config.MAXIMUM_COINS)]
    blinded: Annotated[list[BlindedToken], Meta(min_length=1, max_length=config.MAXIMUM_COINS)]


class Swapped(Message, frozen=True):
    """broker -> customer."""

    operation: Id
    signatures: Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]


class RepeatSwap(Message, frozen=True):
    """customer -> broker: ask what a swap was answered, by its id alone. Answer: `Swapped`.

    What is `not_found` is given up: the swap is refused if it comes after all.
    """

    operation: Id


class FindOrder(Message, frozen=True):
    """customer -> broker: ask where an order stands, and what its claims after the first `after` brought.

    What is `not_found` is given up: the order with this claim secret is refused if it comes after all.
    """

    order_id: Id
    claim_secret: Bytes32
    after: Annotated[int, Meta(ge=0, le=2**31)]

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"FindOrder(order_id={self.order_id.hex()})"


class OrderFound(Message, frozen=True):
    """broker -> customer: `due` is refundable and not claimed yet; `claims` are blind signatures."""

    order_id: Id
    state: BrokerOrderState
    amount: Amount
    deadline: Time
    due: Price
    claims: Annotated[
        list[Annotated[list[RsaBlock], Meta(max_length=config.MAXIMUM_COINS)]],
        Meta(max_length=config.CLAIMS_PER_PAGE),
    ]
    more: bool


# --- Shop scope: delivery ------------------------------------------------------------------------------


class FetchCells(Message, frozen=True):
    """customer -> broker: relay this sealed request, which asks for `cells` cells."""

    request: Id
    merchant: MerchantId
    cells: Annotated[int, Meta(ge=1, le=64)]
    sealed: Sealed


class ForwardFetch(Message, frozen=True):
    """broker -> merchant."""

    reference: Id
    token: ReplyToken
    cells: Annotated[int, Meta(ge=1, le=64)]
    sealed: Sealed


class Cells(Message, frozen=True):
    """merchant -> broker, on the cell connection: the next cells of the answer stream."""

    reference: Id
    token: ReplyToken
    cells: CellGroup


class MerchantCells(Message, frozen=True):
    """broker -> customer, on the cell connection."""

    request: Id
    cells: CellGroup


class FetchRefused(Message, frozen=True):
    """merchant -> broker -> customer (as `MerchantAnswer`): a sealed reason instead of cells."""

    reference: Id
    token: ReplyToken
    answer: Sealed


# --- Merchant scope: its money -------------------------------------------------------------------------

LineKind: TypeAlias = Literal[
    "captured", "settled", "refunded", "payout_requested", "payout_confirmed", "payout_rejected"
]


class GetStatement(Message, frozen=True):
    """merchant -> broker: the lines of my statement after line number `after`."""

    request: Id
    after: Annotated[int, Meta(ge=0, le=2**40)]


class StatementLine(Part, frozen=True):
    """A posting with a merchant's money; `at` is cut to the minute. The sums are those after it.

    `reference` is the order's id or the payout's. What changed is the difference to the line before; what
    a settlement takes from `pending` and does not add to `available` is the operator's commission.
    """

    line: Annotated[int, Meta(ge=1, le=2**40)]
    at: Time
    kind: LineKind
    reference: Id
    pending: Annotated[int, Meta(ge=0, le=2**52)]
    available: Annotated[int, Meta(ge=0, le=2**52)]
    reserved: Annotated[int, Meta(ge=0, le=2**52)]


class Statement(Message, frozen=True):
    """broker -> merchant: the lines after `after`, in their order; `last` is the newest that there is."""

    request: Id
    after: Annotated[int, Meta(ge=0, le=2**40)]
    lines: Annotated[list[StatementLine], Meta(max_length=config.STATEMENT_LINES)]
    last: Annotated[int, Meta(ge=0, le=2**40)]
    commission_basis_points: Annotated[int, Meta(ge=0, le=config.WHOLE_IN_BASIS_POINTS)]


class RequestPayout(Message, frozen=True):
    """merchant -> broker: pay this out of what is available. The same bytes again ask where it stands.

    `destination` says where to (an IBAN, say): what the merchant writes, and the broker's operator reads.
    """

    payout_id: Id
    amount: Amount
    destination: Annotated[str, Meta(min_length=1, max_length=200)]

    def __repr__(self) -> str:
        """Hide where the money goes."""
        return f"RequestPayout(payout_id={self.payout_id.hex()})"


class PayoutAnswer(Message, frozen=True):
    """broker -> merchant: the amount is reserved, paid out, or available again. `reason`: the operator's."""

    payout_id: Id
    state: Literal["requested", "confirmed", "rejected"]
    reason: Annotated[str, Meta(max_length=500)]


class PayoutRefused(Message, frozen=True):
    """broker -> merchant: nothing was reserved."""

    payout_id: Id
    code: RefusalCode


# --- Which side may send what --------------------------------------------------------------------------

FromAccount: TypeAlias = (
    GetBalance
    | TopUp
    | AskTopUp
    | Withdraw
    | BeginRestore
    | FetchIssued
    | ChangePassword
    | EnableTotp
    | DisableTotp
    | CloseAccount
    | LogOut
)
ToAccount: TypeAlias = (
    Balance
    | TopUpAnswer
    | Withdrawn
    | RestoreBegun
    | Issued
    | AccountChanged
    | LoggedOut
    | Refused
    | SessionEnded
)
FromShop: TypeAlias = (
    AskMerchant
    | PlaceOrder
    | AskOrder
    | AnswerKept
    | ConfirmDelivery
    | CancelOrder
    | OpenDispute
    | ClaimRefund
    | Swap
    | RepeatSwap
    | FindOrder
    | FetchCells
    | LogOut
)
ToShop: TypeAlias = (
    MerchantAnswer
    | OrderAnswer
    | RefundIssued
    | Swapped
    | OrderFound
    | MerchantCells
    | LoggedOut
    | Refused
    | KeyRetired
    | SessionEnded
)
FromMerchant: TypeAlias = (
    AnswerForward
    | AnswerOrder
    | OutcomeKept
    | AnswerDispute
    | RefundOrder
    | Cells
    | FetchRefused
    | GetStatement
    | RequestPayout
)
ToMerchant: TypeAlias = (
    Forward
    | ForwardOrder
    | OrderOutcome
    | DisputeOpened
    | DisputeAnswered
    | RefundTaken
    | ForwardFetch
    | Statement
    | PayoutAnswer
    | PayoutRefused
    | Refused
    | SessionEnded
)

# --- Sealed: customer -> merchant ----------------------------------------------------------------------

Sort: TypeAlias = Literal["title", "price", "newest"]
StockLevel: TypeAlias = Literal["in", "low", "out"]


class ListProducts(Message, frozen=True):
    """A page of the catalog. The cursor is (catalog version, offset): nothing that could mark anyone."""

    search: ShortText
    category: ShortText
    sort: Sort
    offset: Annotated[int, Meta(ge=0, le=2**31)]


class GetProduct(Message, frozen=True):
    """One product's signed record."""

    sku: Sku


class GetImage(Message, frozen=True):
    """One product's image."""

    sku: Sku


class QuoteLine(Part, frozen=True):
    """So many of a product, asked about."""

    sku: Sku
    quantity: Quantity


class GetQuote(Message, frozen=True):
    """What would these lines cost now, with this discount code? Nothing is reserved by asking."""

    lines: Annotated[list[QuoteLine], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    code: OptionalCode


class OrderLine(Part, frozen=True):
    """A line as the customer saw it; `record` is SHA-256 of the product's signed record.

    `discount` is what the order's code takes off the whole line, 0 without one.
    """

    sku: Sku
    record: Bytes32
    quantity: Quantity
    unit_price: Price
    discount: Price


class OrderRequest(Message, frozen=True):
    """The sealed part of `PlaceOrder`. `fetch_lock` is SHA-256 of the secret that fetches the cells."""

    lines: Annotated[list[OrderLine], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    code: OptionalCode
    fetch_lock: Bytes32


class GetCells(Message, frozen=True):
    """The sealed part of `FetchCells`: cells `first` to `first + count - 1` of the order's stream."""

    order_id: Id
    fetch_secret: Bytes32
    first: Annotated[int, Meta(ge=0, le=2**32)]
    count: Annotated[int, Meta(ge=1, le=64)]

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"GetCells(order_id={self.order_id.hex()})"


SealedBody: TypeAlias = ListProducts | GetProduct | GetImage | GetQuote | OrderRequest | GetCells


class SealedRequest(Part, frozen=True):
    """What HPKE seals: the key material for the answer, and the question."""

    answer_secret: Bytes32
    body: SealedBody

    def __repr__(self) -> str:
        """Hide the answer secret."""
        return f"SealedRequest({type(self.body).__name__})"


# --- Sealed: merchant -> customer ----------------------------------------------------------------------


class ProductRecord(Part, frozen=True):
    """What the merchant signs about a product. A sold version keeps its content, digest and bucket.

    `size` is the content's length in bytes, `digest` its SHA-256, `cells` the bucket: the number of
    cells that a delivery has, content and padding. `image_digest` is empty where there is no image.
    `group` ties variants of one product together; `variant` names this one among them. `price` is what
    a consumer pays: tax at `tax_rate` basis points is in it. With `keys` each copy that is sold comes with
    a licence key of its own, in the last cell; content of size 0 is then none.
    """

    merchant: MerchantId
    sku: Sku
    version: Annotated[int, Meta(ge=1, le=2**31)]
    title: Title
    description: LongText
    category: ShortText
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=40)]], Meta(max_length=16)]
    group: ShortText
    variant: ShortText
    price: Price
    currency: Currency
    tax_rate: TaxRate
    file_name: Annotated[str, Meta(min_length=1, max_length=120)]
    size: Annotated[int, Meta(ge=0, le=2**44)]
    digest: Bytes32
    cells: Annotated[int, Meta(ge=1, le=2**28)]
    image_digest: Annotated[bytes, Meta(max_length=32)]
    image_alt: ShortText
    keys: bool = False


class ProductSummary(Part, frozen=True):
    """A product as a list shows it."""

    sku: Sku
    title: Title
    category: ShortText
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=40)]], Meta(max_length=16)]
    variant: ShortText
    price: Price
    stock: StockLevel
    image: bool


class ProductPage(Message, frozen=True):
    """Answer to `ListProducts`. `next_offset` is 0 on the last page."""

    catalog_version: Time
    total: Annotated[int, Meta(ge=0, le=2**31)]
    next_offset: Annotated[int, Meta(ge=0, le=2**31)]
    categories: Annotated[list[ShortText], Meta(max_length=64)]
    products: Annotated[list[ProductSummary], Meta(max_length=64)]


class ProductDetail(Message, frozen=True):
    """Answer to `GetProduct`: the record's bytes as signed, and the stock, which stands outside it."""

    record: Annotated[bytes, Meta(max_length=6 * config.KIB)]
    signature: Signature
    stock: StockLevel


class ProductImage(Message, frozen=True):
    """Answer to `GetImage`."""

    media_type: Literal["image/png", "image/jpeg", "image/webp"]
    data: Annotated[bytes, Meta(max_length=config.IMAGE_ANSWER)]


class Tax(Part, frozen=True):
    """The tax in an amount: `base` and `amount` make it up, `rate` is in basis points."""

    rate: TaxRate
    base: Price
    amount: Price


class QuotedLine(Part, frozen=True):
    """A line at its price now; `record` is SHA-256 of the signed record that says so."""

    sku: Sku
    record: Bytes32
    quantity: Quantity
    unit_price: Price
    discount: Price
    amount: Price
    tax: Tax
    stock: StockLevel


class Quote(Message, frozen=True):
    """Answer to `GetQuote`: lines, and their sums (`common.amounts`).

    After `valid_until` it has to be asked for again. It binds nobody: what an order costs is decided when
    the order comes in, and a changed price is a reject.
    """

    lines: Annotated[list[QuotedLine], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    subtotal: Amount
    discount: Price
    taxes: Annotated[list[Tax], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    total: Amount
    currency: Currency
    valid_until: Time


class ReceiptLine(Part, frozen=True):
    """What was bought, and which cells of the order's stream deliver it.

    Two of a file are two licences and one delivery: `cells` does not depend on `quantity`. `amount` is
    the price times the quantity less `discount`, and `tax` is in it. Where the record has keys, the last
    cell begins with `keys_size` bytes of them, `quantity` lines of text; `keys_digest` is SHA-256 of a salt
    that the order's two sides know alone (`common.sealing.AnswerKey.salt`) and these bytes.
    """

    sku: Sku
    title: Title
    record: Bytes32
    quantity: Quantity
    unit_price: Price
    discount: Price
    amount: Price
    tax: Tax
    file_name: Annotated[str, Meta(min_length=1, max_length=120)]
    size: Annotated[int, Meta(ge=0, le=2**44)]
    digest: Bytes32
    first_cell: Annotated[int, Meta(ge=0, le=2**32)]
    cells: Annotated[int, Meta(ge=1, le=2**28)]
    keys_size: Annotated[int, Meta(ge=0, le=config.CELL_CONTENT)] = 0
    keys_digest: Annotated[bytes, Meta(max_length=32)] = b""


class Receipt(Part, frozen=True):
    """What the merchant signs about an order that it accepted. `at` is cut to the minute.

    Subtotal, discount, taxes by rate and total are the sums of the lines (`common.amounts`).
    """

    market: Id
    merchant: MerchantId
    order_id: Id
    lines: Annotated[list[ReceiptLine], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    subtotal: Amount
    discount: Price
    taxes: Annotated[list[Tax], Meta(min_length=1, max_length=config.MAXIMUM_LINES)]
    total: Amount
    currency: Currency
    at: Time


class OrderAccepted(Message, frozen=True):
    """Answer to `OrderRequest`: the receipt's bytes as signed."""

    receipt: Annotated[bytes, Meta(max_length=32 * config.KIB)]
    signature: Signature


RejectionCode: TypeAlias = Literal[
    "price_changed",
    "out_of_stock",
    "not_found",
    "wrong_amount",
    "wrong_currency",
    "nothing_to_pay",
    "code_unknown",
    "code_expired",
    "code_used_up",
    "code_minimum",
    "code_unfit",
    "deadline",
    "idempotency_conflict",
]


class OrderRejected(Message, frozen=True):
    """Answer to `OrderRequest` and `GetQuote`: which line, why, and what would be right.

    `sku` is empty where the order as a whole is meant; `price` is then what it would cost, or for
    `code_minimum` what it has to cost at least.
    """

    code: RejectionCode
    sku: Annotated[str, Meta(max_length=64)]
    price: Price
    available: Annotated[int, Meta(ge=0, le=2**31)]


class RequestRefused(Message, frozen=True):
    """Answer to any other sealed request."""

    code: Literal["not_found", "wrong_secret", "wrong_state", "not_yet"]


SealedAnswer: TypeAlias = (
    ProductPage | ProductDetail | ProductImage | Quote | OrderAccepted | OrderRejected | RequestRefused
)

# --- Cards: retained, signed announcements (common.cards) ----------------------------------------------


class SlotKey(Part, frozen=True):
    """An X-Wing public key and the calendar slot (start, milliseconds) that it belongs to."""

    slot: Time
    public: XWingPublic


class CoinTotal(Part, frozen=True):
    """How many coins of one value and month were issued, and how many of them spent."""

    value: Amount
    month: Month
    issued: Annotated[int, Meta(ge=0, le=2**52)]
    spent: Annotated[int, Meta(ge=0, le=2**52)]


class BrokerCard(Part, frozen=True):
    """broker -> everyone: how to open a session, and which blind-signature keys count.

    `totals` repeats the last public totals, of the boundary `totals_at`, for the months whose keys are
    shown. Before the first ones it is empty, and `totals_at` is 0. `commission_basis_points` is the
    operator's share of what settles from now on, in hundredths of a percent.
    """

    market: Id
    issued: Time
    not_after: Time
    currency: Currency
    hello_keys: Annotated[list[SlotKey], Meta(min_length=1, max_length=4)]
    issuer_keys: Annotated[list[IssuerKey], Meta(max_length=128)]
    log_key: Bytes32
    order_deadline_ms: Annotated[int, Meta(ge=1, le=2**40)]
    commission_basis_points: Annotated[int, Meta(ge=0, le=config.WHOLE_IN_BASIS_POINTS)]
    totals_at: Time
    totals: Annotated[list[CoinTotal], Meta(max_length=128)]


class SpentChunk(Part, frozen=True):
    """broker -> everyone: spent marks of one key, each cut to its first half, filled up with chance."""

    market: Id
    issued: Time
    not_after: Time
    key_id: KeyId
    number: Annotated[int, Meta(ge=0, le=2**31)]
    marks: Annotated[
        bytes,
        Meta(
            min_length=config.SPENT_PER_CHUNK * config.SPENT_MARK,
            max_length=config.SPENT_PER_CHUNK * config.SPENT_MARK,
        ),
    ]


class MerchantCard(Part, frozen=True):
    """merchant -> everyone: who it is, and the prekeys that open requests to it."""

    market: Id
    merchant: MerchantId
    issued: Time
    not_after: Time
    name: Title
    description: LongText
    browse_prekeys: Annotated[list[SlotKey], Meta(min_length=1, max_length=4)]
    order_prekeys: Annotated[list[SlotKey], Meta(min_length=1, max_length=32)]
    catalog_version: Time
