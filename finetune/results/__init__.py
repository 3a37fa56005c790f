"""Run folders, metrics and what they can tell."""
