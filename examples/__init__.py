"""Scripts that show what the package does; each is run by a test."""
