"""What the command can do: one file or folder a task."""
