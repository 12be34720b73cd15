"""The widgets of the panel: the only modules that import Qt."""
