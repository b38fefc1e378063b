"""The memory that this process can still take: of a device, and of the computer within all limits that hold for it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_NO_LIMIT = 1 << 60
"""A limit of a control group from here on is none: version 1 writes the largest multiple of a page for "no limit"."""


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still take on a device; None where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return free_host_memory() if device.type == "cpu" else None


def resident_memory() -> int:
    """Return the bytes of memory that this process has now; where the system does not say, the most it has had."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of the computer's memory that this process can still take; None where the system does not say.

    The least of three:

    - what the kernel calls available, so the memory of other processes is not counted as free;
    - what each control group of this process has left, in version 1 or 2 and up to the root of the tree. Cached pages
      of files count as free there, but for those that a process has mapped, such as its libraries: the kernel drops
      the others first. So what a run writes and reads again does not take its memory;
    - what RLIMIT_AS leaves (`ulimit -v`).

    Args:
        root: the root of /proc and /sys, for tests.
    """
    limits = [*_available(root), *_control_groups(root), *_address_space(root)]
    return max(0, min(limits)) if limits else None


def _available(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
            names = ("memory.max", "memory.current", ("inactive_file", "active_file", "file_mapped"))
        elif "memory" in controllers.split(","):
            mounts = ["sys/fs/cgroup/memory"]
            in_stat = ("total_inactive_file", "total_active_file", "total_mapped_file")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", in_stat)
        else:
            continue
        for mount in mounts:
            # Inside a container the path can be that of the host, which is not there. Then the mount's root remains.
            folders = [folder for folder in path.split("/") if folder not in ("", "..")]
            for depth in range(len(folders) + 1):
                yield from _left_in_group(root.joinpath(mount, *folders[:depth]), *names)


def _left_in_group(group: Path, limit_name: str, used_name: str, in_stat: tuple[str, str, str]) -> Iterator[int]:
    limit, used = _number(group / limit_name), _number(group / used_name)
    if limit is None or used is None or limit >= _NO_LIMIT:
        return
    numbers = dict.fromkeys(in_stat, 0)
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if name in numbers:
            numbers[name] = int(value)
    inactive, active, mapped = numbers.values()
    # Mapped pages may be on either list. Those on the inactive one were not used of late, and go first too.
    yield limit - used + max(inactive, inactive + active - mapped)


def _address_space(root: Path) -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    for line in _lines(root / "proc/self/statm"):
        yield limit - int(line.split()[0]) * resource.getpagesize()


def _number(file: Path) -> int | None:
    """The number in a file; None for a file that is missing or holds "max"."""
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
