"""What one types: `ccsi run|sweep|train|status`, one file a subcommand."""
