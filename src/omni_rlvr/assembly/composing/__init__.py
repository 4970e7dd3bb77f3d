"""What happens to a command line and a config before anything is built from them."""
