"""The page of a run: figures, tables, the verdict of the positive control; nothing recomputed."""
