"""Likelihoods of sequences and effects of mutations, from masked passes of a network."""
