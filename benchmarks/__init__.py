"""Measurements of each part of the project; `python -m benchmarks` lists them."""
