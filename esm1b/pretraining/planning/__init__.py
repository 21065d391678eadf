"""What a run would take, on paper."""
