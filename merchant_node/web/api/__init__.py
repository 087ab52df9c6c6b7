"""The merchant's books for programs: `/api/v1` of `veilmart merchant web` (docs/rest.md).

    products, stock --> orders --> refunds        sales, balance, statement

One file per resource; `interface` puts them together.

Rule 1. It works beside the running node, or without it, as the pages do: what is asked for here (a refund,
a changed price) is stored, and the node takes it from there.

Rule 2. Nobody appears here as a buyer: an order is a number. What was signed for its customer was sealed
to the customer, so receipts are the customer's alone.
"""
