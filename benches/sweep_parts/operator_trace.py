"""Where a pass spends its time: operators by their own time, and by the model's dimensions among their shapes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity

from benches.sweep_parts.gdig_passes import Pass
from gdig.data.tokens import Example


def profile(run: Pass, examples: Sequence[Example], dimensions: set[int], warm_up: int, rows: int = 16) -> str:
    """One pass under torch's profiler: the operators with the most time of their own, then the same by shape.

    Args:
        run: the pass.
        examples: what it passes over.
        dimensions: of the model. Other sizes (tokens, lines, lengths) differ from batch to batch and print as a dot.
        warm_up: the number of examples passed before.
        rows: the number of operators shown.
    """
    run(examples[:warm_up])
    begin = time.perf_counter()
    run(examples)
    seconds = time.perf_counter() - begin
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
        begin = time.perf_counter()
        run(examples)
        traced = time.perf_counter() - begin
    by_name: Counter[str] = Counter()
    by_shape: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in trace.key_averages(group_by_input_shape=True):
        name = event.key.removeprefix("autograd::engine::evaluate_function: ")
        shapes = [[n if n in dimensions else "." for n in shape] for shape in event.input_shapes if shape]
        shaped = f"{name} " + " ".join("x".join(map(str, shape)) for shape in shapes[:3])
        for key, table in ((name, by_name), (shaped, by_shape)):
            table[key] += event.self_cpu_time_total
            calls[key] += event.count
    total = sum(by_name.values())
    lines = [f"{seconds:.2f} s; under the profiler {traced:.2f} s, {total / 1e6:.2f} s of it inside operators"]
    for title, table in (("operator", by_name), ("operator and shapes", by_shape)):
        lines.append(f"  by {title}: share, seconds, calls")
        lines += [f"  {t / total:6.1%} {t / 1e6:8.3f} {calls[key]:6} {key}" for key, t in table.most_common(rows)]
    return "\n".join(lines)
