"""The one way to lock and the one way to write a file whole."""
