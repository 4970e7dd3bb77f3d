"""Strings in, floats out: reward terms and their weighted mixture."""
