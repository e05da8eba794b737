"""What a sweep leaves behind."""
