"""Recipes: what a person may say of a run, validated, and the grid of a comparison."""
