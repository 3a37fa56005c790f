"""How trials are planned and run."""
