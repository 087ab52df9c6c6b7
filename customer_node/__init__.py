"""A customer's node: a wallet, a cart, and orders whose content only the merchant reads. See `Market`."""

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
    PriceChangedError,
    RejectedError,
    UnreachableError,
    UntrustedError,
    UsageError,
    VeilmartError,
)
from customer_node.invoices.model import Buyer
from customer_node.market import Market
from customer_node.refusals import TicketsNeededError
from customer_node.seed_file import KeyFile, Passphrase

__all__ = [
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
    "PriceChangedError",
    "RejectedError",
    "TicketsNeededError",
    "UnreachableError",
    "UntrustedError",
    "UsageError",
    "VeilmartError",
]
