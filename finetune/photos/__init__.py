"""Photos on disk: opening, finding, remembering, comparing, cropping and splitting them."""
