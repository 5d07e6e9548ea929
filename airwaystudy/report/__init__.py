"""Pages made from a study's results."""
