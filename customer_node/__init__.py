"""A customer's node: a wallet, a cart, and orders whose content only the merchant reads.

See `Market`, or `AsyncMarket` for asyncio. `docs/python.md` is the API on one page.
"""

from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    BusUnreachableError,
    BusyError,
    CardDeclinedError,
    DeadlineError,
    DiscountRefusedError,
    GatewayUnreachableError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidCardError,
    MerchantOfflineError,
    NotFoundError,
    OutOfStockError,
    OutOfTicketsError,
    PaymentsStoppedError,
    PriceChangedError,
    RejectedError,
    TooSoonError,
    UnreachableError,
    UntrustedError,
    UsageError,
    VeilmartError,
)
from customer_node.async_market import AsyncMarket
from customer_node.invoices.model import Buyer
from customer_node.market import Market
from customer_node.refusals import TicketsNeededError
from customer_node.seed_file import KeyFile, Passphrase

__all__ = [
    "AsyncMarket",
    "AuthenticationError",
    "BrokerUnreachableError",
    "BusUnreachableError",
    "BusyError",
    "Buyer",
    "CardDeclinedError",
    "DeadlineError",
    "DiscountRefusedError",
    "GatewayUnreachableError",
    "IdempotencyConflictError",
    "InsufficientFundsError",
    "InvalidCardError",
    "KeyFile",
    "Market",
    "MerchantOfflineError",
    "NotFoundError",
    "OutOfStockError",
    "OutOfTicketsError",
    "Passphrase",
    "PaymentsStoppedError",
    "PriceChangedError",
    "RejectedError",
    "TicketsNeededError",
    "TooSoonError",
    "UnreachableError",
    "UntrustedError",
    "UsageError",
    "VeilmartError",
]
