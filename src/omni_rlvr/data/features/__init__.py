"""Features of frozen towers, kept on disk."""
