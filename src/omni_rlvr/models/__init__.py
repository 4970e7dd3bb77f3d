"""Model families, their processors, and how checkpoints are loaded."""
