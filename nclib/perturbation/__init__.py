"""Perturbation theory: what the minimizer does to its input features."""
