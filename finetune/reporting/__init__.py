"""Reports, comparisons, galleries and charts."""
