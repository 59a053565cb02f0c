"""Near-duplicates: hashes, pairs, groups, and groups as shown to a person."""
