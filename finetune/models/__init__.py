"""Networks: any of timm's, our own, their weights, heads and features."""
