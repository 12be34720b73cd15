"""Masks: open label images and outlines as the label image of a slide, and examine them."""
