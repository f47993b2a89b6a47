"""What the paper leaves open: several levels of features, cross-entropy, imbalanced classes."""
