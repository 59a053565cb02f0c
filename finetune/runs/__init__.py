"""Run folders: reading, loading, evaluating, model card."""
