"""Patches: a slide and its cells become square crops, one per cell, in a store or as a stream."""

PATCH_SIZE_UM = 32.0  # side of a patch by default
