"""Decoding completions, and what an update reads of them."""
