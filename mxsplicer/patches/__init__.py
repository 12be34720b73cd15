"""Patches: a slide and its cells become square crops, one per cell, in a store or as a stream."""
