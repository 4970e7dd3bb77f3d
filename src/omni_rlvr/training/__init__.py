"""Train a policy: the Lightning module, its trainer, callbacks, checkpoints and loggers."""
