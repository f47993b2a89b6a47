"""Perturbation theory: what the minimizer does to its input features, for large beta and for every beta."""
