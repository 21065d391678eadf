"""Which sequences a run saw, and how often."""
