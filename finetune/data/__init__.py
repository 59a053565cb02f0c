"""Photos as batches: the caches on disk, datasets, and the order of an epoch."""
