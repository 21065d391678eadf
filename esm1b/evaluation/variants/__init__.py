"""Predicted effects of mutations beside measured ones: Spearman and what ProteinGym reports."""
