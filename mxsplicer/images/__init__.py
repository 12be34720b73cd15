"""Slide images: read them lazily, with their markers and tiles."""
