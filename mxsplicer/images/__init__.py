"""Slide images: reading them lazily, their markers and their tiles."""
