"""From sequence files to a corpus: cleaned, split, sharded, and tokenised."""
