"""The run directory: its layout, its record, its life, and the inputs and model of one start."""
