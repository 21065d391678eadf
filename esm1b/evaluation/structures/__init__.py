"""Protein structures: files, chains, contacts."""
