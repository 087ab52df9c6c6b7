"""`veilmart doctor`: what is wrong here, and what to do about it. One module for each group of checks.

Rule 1. A check only looks. It takes no lock, writes no file and opens no session: nodes may run meanwhile,
and none of them knows of it.

Rule 2. A check tells its result and what to do, never what a secret file holds.

Rule 3. What cannot be looked at from here is `not_applicable`, never `ok`.
"""
