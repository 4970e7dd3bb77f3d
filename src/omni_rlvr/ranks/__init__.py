"""The processes (ranks) of one run: how they were started, find each other, and end together."""
