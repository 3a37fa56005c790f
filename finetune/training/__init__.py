"""Fit a tail and commit its state."""
