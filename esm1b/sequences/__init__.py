"""Sequence records of any format."""
