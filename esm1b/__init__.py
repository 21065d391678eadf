"""ESM-1b, from UniRef50 to a trained, evaluated and exported model."""
