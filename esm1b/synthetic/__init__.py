"""Command `synthesize`: protein families with a known truth."""
