"""The processes of a run: where each is, and what they tell each other."""
