"""Find, load, cut, change and save models."""
