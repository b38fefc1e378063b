"""HTML pages that open from a disk: templates, styles and scripts, and how they become one file."""
