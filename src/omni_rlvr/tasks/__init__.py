"""Tasks, one a file, and what they share; ``run`` picks one."""
