"""`python -m gdig` is the command `gdig`."""

import sys

from gdig.cli import main

sys.exit(main())
