"""Curation of a collection with a backbone: crops, similarity, suggestions, label errors."""
