"""Compiles Triton kernels for GPUs that are not there, exactly as a launch would.

A launch is any call that ends in `kernel[grid](...)`, given tensors on the CPU. Under a driver that claims a GPU of
some generation, each kernel it launches is compiled down to machine code, for the very argument types, alignments and
constants of that call, and not run. What comes back says what the machine code uses.

Triton decides when it is imported whether kernels are compiled or interpreted, and the tests interpret them: so tests
call `compile_elsewhere`, which does it in a process of its own.

    reports = compile_elsewhere("tests.support.launch_covariance:pinned", 90, arguments=["float32", 9])
    for report in reports:
        report.check("wgmma")
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Shared memory that one block may have, in bytes (CUDA C++ programming guide, technical specifications).
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
# What a matrix product should become on each generation.
TENSOR_CORES = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05", 120: "mma.sync"}
_INSTRUCTIONS = {"mma.sync": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "cp.async": "cp.async."}


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled for one GPU: `stack` bytes of each thread spilled to memory, `shared` bytes a block."""

    kernel: str
    arch: int
    instructions: tuple[str, ...]
    registers: int
    stack: int
    shared: int

    def faults(self) -> list[str]:
        """Why it should not be used: spills, or does not fit."""
        reasons = []
        if self.stack:
            reasons.append(f"spills {self.stack} bytes a thread ({self.registers} registers)")
        if self.shared > SHARED_LIMIT[self.arch]:
            reasons.append(f"wants {self.shared} bytes of shared memory, has {SHARED_LIMIT[self.arch]}")
        return reasons

    def check(self, *instructions: str) -> None:
        """Assert that it has no faults and uses these instructions."""
        assert not self.faults(), f"{self}: {'; '.join(self.faults())}"
        assert set(instructions) <= set(self.instructions), f"{self}: expected {instructions}"


class _Absent:
    """A driver for a GPU that is not there: it answers what a compilation asks, and no more."""

    def __init__(self, arch: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", arch, 32)

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target


def compile_launch(launch: Callable[[], object], arch: int) -> list[Compiled]:
    """Compile every kernel that `launch` launches, in order, for compute capability arch / 10; nothing runs.

    Raises:
        RuntimeError: where Triton interprets kernels.
        Exception: of Triton, where a kernel does not compile or takes more than the GPU has.
    """
    import triton
    from triton.runtime.jit import JITFunction

    if triton.knobs.runtime.interpret:
        raise RuntimeError("kernels are interpreted in this process (TRITON_INTERPRET=1), not compiled")
    compiled: list[Compiled] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append(_report(kernel, arch))
        return kernel

    triton.runtime.driver.set_active(_Absent(arch))  # type: ignore[arg-type]
    JITFunction.run = compile_only  # type: ignore[method-assign]
    try:
        launch()
    finally:
        JITFunction.run = run  # type: ignore[method-assign]
    return compiled


def _report(kernel: Any, arch: int) -> Compiled:
    ptx = kernel.asm["ptx"]
    registers, stack = _resources(kernel.asm["cubin"])
    used = tuple(name for name, text in _INSTRUCTIONS.items() if text in ptx)
    return Compiled(kernel.metadata.name, arch, used, registers, stack, kernel.metadata.shared)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, as cuobjdump, which comes with Triton, reads them from the machine code.
    The stack holds what was spilled: these kernels have no arrays of their own."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(path)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if match is None:
        raise RuntimeError(f"cuobjdump: expected REG and STACK, got: {said}")
    return int(match[1]), int(match[2])


def generation() -> int:
    """The generation of the GPU that a launch is compiled for: 9 for compute capability 9.0."""
    import triton

    return triton.runtime.driver.active.get_current_target().arch // 10


def compile_elsewhere(name: str, *archs: int, arguments: Sequence[Any] = ()) -> list[Compiled]:
    """`compile_launch` in a process where Triton compiles.

    Args:
        name: "module:function", a launch.
        archs: compute capabilities times ten.
        arguments: of the function.

    Raises:
        AssertionError: with the process' traceback, when it fails.
    """
    from tests.support.project_fixtures import fork

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reports"
        process = fork(_compile, name, archs, tuple(arguments), str(out))
        process.join()
        said = json.loads(out.read_text(encoding="utf-8")) if out.exists() else f"exit status {process.exitcode}"
    assert not isinstance(said, str), f"{name} for {archs}:\n{said[-4000:]}"
    return [Compiled(**{**row, "instructions": tuple(row["instructions"])}) for row in said]


def _compile(name: str, archs: Sequence[int], arguments: Sequence[Any], out: str) -> None:
    """Write the reports, or a traceback, to `out`."""
    module, function = name.split(":")
    said: list[dict[str, Any]] | str
    try:
        launch = getattr(importlib.import_module(module), function)
        said = [asdict(report) for arch in archs for report in compile_launch(lambda: launch(*arguments), arch)]
    except BaseException:
        said = traceback.format_exc()
    Path(out).write_text(json.dumps(said), encoding="utf-8")
