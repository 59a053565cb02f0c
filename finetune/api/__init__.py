"""Functions of `from finetune import ...`: each command as a function."""
