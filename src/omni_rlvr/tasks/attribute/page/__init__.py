"""The page that task=report writes from runs of task=attribute."""
