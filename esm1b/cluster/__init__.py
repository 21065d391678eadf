"""Clusters with a scheduler: profiles for one, and the jobs of this workflow in its queue."""
