"""Tasks on data sets alone: check, prepare and preview."""
