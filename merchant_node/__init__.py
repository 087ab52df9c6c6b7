"""The merchant: knows what is bought, never by whom."""
