"""Records of a corpus: parsing, cleaning, duplicates, the split."""
