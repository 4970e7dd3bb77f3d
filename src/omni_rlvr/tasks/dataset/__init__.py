"""Tasks on data sets, without a model: check, prepare and preview."""
