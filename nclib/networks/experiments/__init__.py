"""The experiments on real networks: their settings, and the runner that carries them out."""
