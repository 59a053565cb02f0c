"""Tasks: one label a photo, or several."""
