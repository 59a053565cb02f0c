"""Labeling page: routes, session, suggestions."""
