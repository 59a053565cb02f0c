"""Networks: timm models and our own, weights, heads, feature extraction."""
