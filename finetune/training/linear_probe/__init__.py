"""Linear probe: heads on the cached features of a frozen backbone."""
