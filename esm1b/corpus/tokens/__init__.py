"""Command `tokenize`, and the dataset that training reads."""
