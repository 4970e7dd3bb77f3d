"""Decoding in child processes with a time limit, because decoders crash and hang."""
