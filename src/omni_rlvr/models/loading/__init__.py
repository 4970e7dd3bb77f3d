"""Find, check and load checkpoint folders."""
