"""Completions over shared prompts: packing, attention, scoring and decoding."""
