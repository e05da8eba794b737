"""A learned model taken out of its run: files that other programs read."""
