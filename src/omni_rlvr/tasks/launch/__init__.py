"""Runs on several devices: one process each."""
