"""Studies: the experiments behind the numbers, one file each. `python -m studies` runs them."""
