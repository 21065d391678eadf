"""Masked-language-model pretraining with DeepSpeed, on any number of processes."""
