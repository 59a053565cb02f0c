"""Honest numbers: pure functions of logits and targets, in float64, without torch."""
