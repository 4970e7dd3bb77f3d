"""The task ``plan``: the memory of a training run, estimated before anything is loaded."""
