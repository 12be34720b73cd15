"""What is seen of the panel: the only modules that know Qt."""
