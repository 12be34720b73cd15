"""Patches become a trained encoder."""
