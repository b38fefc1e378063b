"""The stages of a run, one file each; pipeline.py tells them as a story."""
