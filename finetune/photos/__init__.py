"""Photos on disk: decoding, scanning, catalog, near-duplicates, crops, splits (no torch)."""
