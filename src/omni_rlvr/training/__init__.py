"""The Lightning module and what surrounds it."""
