"""Augmentation: Möbius maps, composed warps, recipes, batches on the CPU and the GPU."""
