"""Measurements. `python -m bench orders --json`, `delivery` and `coins` likewise.

Rule 1. Every figure of orders and delivery stands beside a floor that was measured in the same run: a
plaintext relay over the same hops on unmodified paho. Machines differ, and the same machine differs from
minute to minute; the ratio says what the project's own work costs. Coins have no such floor: their
figures stand alone, with the conditions that they were taken under.

Rule 2. What is measured is the product: real nodes in processes of their own, real Mosquitto, SQLite with
`synchronous=FULL`. Only TLS is off, on both sides of the comparison.

Rule 3. A measurement ends with a look at what was done: orders captured, books in balance, files intact.
"""
