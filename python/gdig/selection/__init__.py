"""What is chosen from a finished sweep, and how."""
