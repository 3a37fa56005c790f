"""How good models are: metrics, paired tests, and pictures of what they look at."""
