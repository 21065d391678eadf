"""The network of ESM-1b, its weights in the formats of others, and its use."""
