"""Update k as a pure function of tokens, recipe, seed and k: sequences, crops and masks."""
