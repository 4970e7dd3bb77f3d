"""Annotations, clips and batches."""
