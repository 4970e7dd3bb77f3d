"""Typed schemas, their registration with Hydra, and a check of every ``_target_``."""
