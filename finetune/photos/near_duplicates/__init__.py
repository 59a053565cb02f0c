"""Near-duplicates: hashes, pairs, pairs and groups."""
