"""Splits into train, validation and test, with whole groups of near-duplicates."""
