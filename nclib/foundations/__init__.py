"""Collapse, its metrics, the perturbed features model and its exact minimizer."""
