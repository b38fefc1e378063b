"""Regular expressions of a file or an option, searched for in names within a limit of time.

Python's `re` tries every way to match. For some patterns these are more than the seconds of a year, and no thread can
end it. So a process of its own searches, which ends at the limit; it loads neither torch nor this package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

MOST_PATTERN = 10_000
"""Most characters of one pattern."""
_SECONDS = 2
"""Of processor time: thousands of names take milliseconds."""
_WAIT_S = 60.0
"""Until an answer, where other processes take the processor, or where the system has no limit of processor time."""

_SEARCH = f"""
import json, re, sys, warnings
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
except (ImportError, ValueError):
    pass
warnings.simplefilter("ignore")
patterns, names = json.load(sys.stdin)
try:
    compiled = [re.compile(pattern) for pattern in patterns]
except (re.error, OverflowError, RecursionError) as error:
    answer = str(error)
else:
    answer = [[name for name in names if pattern.search(name)] for pattern in compiled]
json.dump(answer, sys.stdout)
"""


class PatternError(ValueError):
    """A pattern is no regular expression, or takes too long. The message says which."""


def search(patterns: Sequence[str], names: Sequence[str] = ()) -> list[list[str]]:
    """Return for each pattern the names that it matches anywhere, in their order.

    Raises:
        PatternError: if a pattern is no regular expression, or if the search takes more than 2 s of processor time.
    """
    return [list(matched) for matched in _search(tuple(patterns), tuple(names))]


@lru_cache(maxsize=16)
def _search(patterns: tuple[str, ...], names: tuple[str, ...]) -> list[list[str]]:
    if long := max((len(pattern) for pattern in patterns if len(pattern) > MOST_PATTERN), default=None):
        raise PatternError(f"a pattern has {long:,} characters, expected at most {MOST_PATTERN:,}")
    # Here, since every start imports this module, and few search.
    import subprocess
    from multiprocessing.spawn import get_executable

    command = [get_executable(), "-I", "-S", "-c", _SEARCH]
    try:
        done = subprocess.run(
            command, input=json.dumps([patterns, names]), capture_output=True, encoding="ascii", timeout=_WAIT_S
        )
    except subprocess.TimeoutExpired:
        raise PatternError(_too_long(names)) from None
    except OSError as error:
        raise PatternError(f"the process that searches for it cannot be started: {error}") from None
    if done.returncode < 0:  # a signal: of the limit
        raise PatternError(_too_long(names))
    if done.returncode:
        raise PatternError(f"the process that searches for it has failed: {done.stderr.strip()[-200:]}")
    answer: str | list[list[str]] = json.loads(done.stdout)
    if isinstance(answer, str):
        raise PatternError(answer)
    return answer


def _too_long(names: Sequence[str]) -> str:
    what = f"its search in {len(names):,} names" if names else "to compile it"
    return f"{what} takes more than {_SECONDS} s; leave out repeats inside of repeats, such as (a+)+"
