"""Masks: label images and outlines become one label image of a slide, checked against it."""
