"""Import and export of labels and data sets."""
