"""What each command does, one module for each: the leaves that put the parts together."""
