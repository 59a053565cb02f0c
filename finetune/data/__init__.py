"""Caches on disk, datasets, loaders."""
