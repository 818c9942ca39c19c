"""Figures and one self-contained page, made from a run directory and nothing else."""
