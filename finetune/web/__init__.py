"""Local web pages: annotate and serve."""
