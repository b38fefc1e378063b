"""Options: where each is defined, checked, read and written."""
