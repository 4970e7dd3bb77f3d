"""The tasks of the command, one file or folder each."""
