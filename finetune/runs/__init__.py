"""Run folders: written once, read by everything else."""
