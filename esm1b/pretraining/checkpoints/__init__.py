"""Checkpoints: what a run saves and resumes from."""
