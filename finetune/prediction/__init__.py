"""From a run to answers about new photos."""
