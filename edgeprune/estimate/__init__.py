"""What pruning can gain in front of a language model, from figures alone. No torch."""
