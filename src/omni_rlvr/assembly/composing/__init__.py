"""Check a command line and its config, and word errors, before anything is built from them."""
