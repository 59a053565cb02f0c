"""Metrics, calibration and out-of-distribution scores: pure functions of logits and targets."""
