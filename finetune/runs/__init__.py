"""A run: the folder that holds all that a model is, and how it comes to be."""
