"""DeepSpeed around the encoder."""
