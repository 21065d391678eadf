"""The page of a run: figures, tables and the verdict of the positive control, nothing recomputed."""
