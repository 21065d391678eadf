"""Weights on disk: fair-esm, Hugging Face, model directories."""
