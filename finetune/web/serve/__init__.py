"""Prediction server: page and HTTP interface."""
