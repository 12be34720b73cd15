"""Segmentation: a slide becomes a mask, tile by tile."""

NUCLEUS_DIAMETER_UM = 7.0  # typical, by default
EXPANSION_UM = 3.0  # how far a cell reaches beyond its nucleus, by default
