"""Derivations in SymPy that chapters show and tests evaluate; import the modules by name."""
