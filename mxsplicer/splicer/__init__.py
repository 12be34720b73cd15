"""Training: patches become a trained encoder."""
