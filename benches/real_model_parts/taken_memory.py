"""Memory that other programs take: a process holds as much as makes it a share of this machine's memory.

    python -m benches.real_model_parts.taken_memory 0.5

What others hold already counts. The memory is given back when the input of the process ends.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gdig.model.free_memory import free_host_memory


@contextmanager
def taken_memory(share: float) -> Iterator[int]:
    """Let another process hold memory while the block runs, so that a share of all of it is taken; gives its bytes.

    Raises:
        RuntimeError: when the process ends without them.
    """
    command = [sys.executable, "-m", "benches.real_model_parts.taken_memory", str(share)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said.strip().isdecimal():
                raise RuntimeError("the memory could not be taken")
            yield int(said)
        finally:
            process.stdin.close()


def missing(share: float, all_memory: int, free: int) -> int:
    """Bytes that make the taken memory a share of all of it; none where others hold as much."""
    return max(0, free - int((1 - share) * all_memory))


def main() -> None:
    """Take the memory, say how many bytes these are, and wait."""
    all_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = free_host_memory()
    size = missing(float(sys.argv[1]), all_memory, all_memory if free is None else free)
    with mmap.mmap(-1, max(1, size)) as held:
        for at in range(0, size, mmap.PAGESIZE):
            held[at] = 1  # a page that nobody has written to takes no memory
        print(size, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
