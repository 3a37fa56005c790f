"""What crosses the cut: run a trunk, store its output, read it back."""
