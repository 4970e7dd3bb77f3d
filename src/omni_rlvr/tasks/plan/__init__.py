"""The task ``plan``: estimate the memory of a training run before anything is loaded."""
