"""The auditor's node: it listens to what is public, and sends nothing."""
