"""Patches: square crops of a slide, one per cell, in a store or as a stream."""

PATCH_SIZE_UM = 32.0  # default side of a patch: a cell of 10 to 15 µm and its neighbours
