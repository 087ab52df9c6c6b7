"""A customer's node: a wallet, a cart, and orders whose content only the merchant reads. See `Market`."""

from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    BusUnreachableError,
    BusyError,
    DeadlineError,
    DiscountRefusedError,
    IdempotencyConflictError,
    InsufficientFundsError,
    MerchantOfflineError,
    NotFoundError,
    OutOfStockError,
    OutOfTicketsError,
    PriceChangedError,
    RejectedError,
    UnreachableError,
    UntrustedError,
    UsageError,
    VeilmartError,
)
from customer_node.market import Market
from customer_node.refusals import TicketsNeededError
from customer_node.seed_file import KeyFile, Passphrase

__all__ = [
    "AuthenticationError",
    "BrokerUnreachableError",
    "BusUnreachableError",
    "BusyError",
    "DeadlineError",
    "DiscountRefusedError",
    "IdempotencyConflictError",
    "InsufficientFundsError",
    "KeyFile",
    "Market",
    "MerchantOfflineError",
    "NotFoundError",
    "OutOfStockError",
    "OutOfTicketsError",
    "Passphrase",
    "PriceChangedError",
    "RejectedError",
    "TicketsNeededError",
    "UnreachableError",
    "UntrustedError",
    "UsageError",
    "VeilmartError",
]
