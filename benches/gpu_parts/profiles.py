"""Where the time of a pass goes on a GPU, and what the host does for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize")
SHOWN = 16


def profile(run: Callable[[], object], device: torch.device, batches: int) -> dict[str, Any]:
    """Profile one run.

    Returns:
        Seconds of the run, seconds of the device's work, launches and waits of the host a batch, and the operations
        with the most time: name, milliseconds, calls. A wait for the results at the end of a shard is among the waits.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    begin = time.perf_counter()
    with torch_profile(activities=activities) as timeline:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begin
    events = timeline.key_averages()
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    longest = sorted(events, key=lambda event: -getattr(event, time_of))[:SHOWN]
    facts = {
        "seconds": seconds,
        "device_seconds": sum(getattr(event, time_of) for event in events) / 1e6,
        "batches": batches,
        "launches_a_batch": sum(e.count for e in events if e.key in LAUNCHES) / batches,
        "waits_a_batch": sum(e.count for e in events if e.key in WAITS) / batches,
        "numbers_read_a_batch": sum(e.count for e in events if e.key == "aten::_local_scalar_dense") / batches,
        "longest": [[event.key[:100], getattr(event, time_of) / 1e3, event.count] for event in longest],
    }
    numbers = {name: round(value, 3) for name, value in facts.items() if isinstance(value, float)}
    print(f"profile: {numbers}", flush=True)
    for name, milliseconds, count in facts["longest"]:
        print(f"  {milliseconds:9.2f} ms {count:6} {name}", flush=True)
    return facts
