"""The demo: a whole market on this machine, two customers who buy from it, and what each party saw."""
