"""Derivations in SymPy that the chapters show and the tests evaluate; import the modules by name."""
