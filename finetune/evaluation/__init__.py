"""Metrics, calibration and out-of-distribution scores: functions of (logits, targets) in float64."""
