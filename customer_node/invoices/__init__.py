"""Invoices: a merchant's signed receipt as a page for people, with the buyer's own words on it.

    receipt (verified) + buyer's words --> Invoice --> pdf.render, page.render --> bytes

Rule 1. Every figure on an invoice is the receipt's, whose figures were worked out anew when it was verified.

Rule 2. The buyer's name and address are put in on the buyer's machine and never leave it by our doing.

Rule 3. Rendering is a pure function: the same invoice gives the same bytes.
"""
