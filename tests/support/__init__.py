"""What several test files, or tests and benches, share."""
