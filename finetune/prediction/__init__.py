"""Prediction of new photos by trained runs."""
