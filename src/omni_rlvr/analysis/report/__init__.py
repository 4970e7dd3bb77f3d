"""Many runs side by side: gather, tabulate, compare, draw, write one page."""
