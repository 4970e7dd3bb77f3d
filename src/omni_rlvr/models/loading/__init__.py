"""Checkpoint folders: found, read, checked and loaded."""
