"""Training: prepare, loop, optimizer, schedule, checkpoints, distributed."""
