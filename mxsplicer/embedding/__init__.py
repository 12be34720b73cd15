"""Embedding: a trained encoder and the cells of slides become an AnnData; only this folder writes .h5ad files."""
