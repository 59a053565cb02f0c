"""Random changes to training photos: maps, colours, erasing and mixing, on the CPU and the GPU."""
