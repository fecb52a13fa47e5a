"""The site of many runs: a table, plots, and a page for each run."""
