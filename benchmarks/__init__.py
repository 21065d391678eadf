"""Measurements of each part beside its peers; `python -m benchmarks` lists them."""
