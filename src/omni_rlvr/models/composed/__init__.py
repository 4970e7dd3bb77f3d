"""The family whose models join a vision tower, an audio encoder and a causal LM by projectors."""
