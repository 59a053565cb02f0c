"""Catalog of a collection: an SQLite file of photos and annotations."""
