"""Which weights train, low-rank adapters, and checkpoints that hold adapters alone."""
