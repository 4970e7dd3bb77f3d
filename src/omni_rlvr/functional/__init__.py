"""Tensors in, tensors out: masks, log-probabilities, advantages, KL, losses, metrics."""
