"""Reports that a person would rather read than a log."""
