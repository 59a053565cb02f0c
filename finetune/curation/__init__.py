"""What a backbone says about a collection."""
