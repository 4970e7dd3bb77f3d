"""Readers of data sets: one class for each way in which data sets are annotated and laid out."""
