"""Several processes at one run."""
