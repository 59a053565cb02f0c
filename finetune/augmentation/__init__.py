"""Random changes to training photos: maps, colors, erasing and mixing, on the CPU and the GPU."""
