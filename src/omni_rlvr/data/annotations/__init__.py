"""Annotation files: found, read row by row, validated and kept as examples."""
