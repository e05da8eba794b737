"""Data-free class-incremental learning: CCSI and its rivals on one protocol (see README.md)."""
