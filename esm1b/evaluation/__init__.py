"""What a trained model is worth, each number beside its baselines and a 95 % interval."""
