"""What was measured on networks: records of runs, class statistics, the model fitted to them."""
