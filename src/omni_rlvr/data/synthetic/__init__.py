"""The synthetic data set: drawn faces, synthesised voices, and an exact oracle."""
