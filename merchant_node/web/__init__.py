"""The dashboard: a merchant's pages, on the merchant's own machine, beside the running node or without it.

    today --> orders --> order --> refund | dispute
          --> products --> add, edit, stock, import, discounts, privacy
          --> money --> payout      plots      settings

One file per part of the day's work; `dashboard` puts them together, `desk` is what they share.

Rule 1. Every page reads and writes the merchant's store as the command line does: the running node takes
each change at once. Nothing here talks to the bus.

Rule 2. A page that is looked at changes nothing. Before money moves, a page of its own says what happens;
what is sent twice happens once.

Rule 3. Nobody appears here as a buyer: all that is known of one is an order's id.
"""
