"""Memory that another program takes: a process that holds a share of this machine's memory until its input ends.

python -m benches.real_model_parts.taken_memory 0.5
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gdig.model.free_memory import free_host_memory

_LEFT = 5 << 30
"""Bytes that have to be left for the measured process."""


@contextmanager
def taken_memory(share: float) -> Iterator[int]:
    """Let another process hold a share of the memory while the block runs; gives its bytes.

    Raises:
        RuntimeError: when so much is not free.
    """
    command = [sys.executable, "-m", "benches.real_model_parts.taken_memory", str(share)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said.strip().isdecimal():
                raise RuntimeError(f"the memory could not be taken: {said.strip() or 'see above'}")
            yield int(said)
        finally:
            process.stdin.close()


def main() -> None:
    """Take the memory, say how many bytes these are, and wait."""
    size = int(float(sys.argv[1]) * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    free = free_host_memory()
    if free is not None and size + _LEFT > free:
        print(f"{size / 1e9:.1f} GB are asked for, {free / 1e9:.1f} GB are free", flush=True)
        return
    with mmap.mmap(-1, max(1, size)) as held:
        for at in range(0, size, mmap.PAGESIZE):
            held[at] = 1  # a page that nobody has written to takes no memory
        print(size, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
