"""What was measured on networks: records of runs, class statistics in files, and the model fitted to them."""
