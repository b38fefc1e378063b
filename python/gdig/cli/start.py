"""Where the command `gdig` starts: an installation without its packages gets one message in place of a traceback."""

import sys

from gdig.errors import code_of
from gdig.missing_packages import missing_package


def run() -> None:
    """Run the command line of this process, and exit with its status."""
    try:
        from gdig.cli.main import run as run_command

        run_command()
    except ModuleNotFoundError as error:
        if (missing := missing_package("the command gdig", error)) is None:
            raise
        print(f"gdig: error: {missing} [{code_of(missing)}]", file=sys.stderr)
        sys.exit(2)
