"""A time limit for calls of reward functions."""
