"""The shop for programs: `/api/v1` of `veilmart customer web` (docs/rest.md).

    products --> cart --> quote --> orders --> receipts        shop visits, anonymous
    wallet, session                                            read, and left; nothing here opens the account

One file per resource; `interface` puts them together.

Rule 1. Whatever asks a merchant or the broker goes through `Sides.shops`: it is refused while the account is
open, as the pages are. What only reads or changes the profile goes through `Sides.here`.

Rule 2. A purchase names the totals that were agreed to, and an idempotency key: nothing else is paid, and
that once.
"""
