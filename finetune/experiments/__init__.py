"""Experiments: cross-validation, tuning, ablation, learning rate search."""
