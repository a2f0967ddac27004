"""Times of several calls in turns, between two looks at what the machine can do."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

SIDE = 2048
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call: wall time, or another clock's, or what it says that it took elsewhere."""
    began = clock()
    told = call()
    return told if isinstance(told, float) else clock() - began


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call in each round.

    Each is called twice in its turn, and the second time counts: as in a run of many steps it finds
    its own memory in the caches, and the threads of whoever came before it have come to rest.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            times[name].append(seconds(call, clock))
    return times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def ceilings(clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """GFLOP/s of a matrix product (`a @ b`, and float32 through oneDNN as the linear layers take
    it), GB/s read and copied: the best of five."""
    from dalle.nn.linear import product

    a = torch.randn(SIDE, SIDE)
    half = a.bfloat16()
    long = torch.ones(2**26)
    other = torch.empty_like(long)

    def best(call: Callable[[], object]) -> float:
        return min(seconds(call, clock) for _ in range(5))

    flop = 2 * SIDE**3 / 1e9
    with torch.no_grad():
        return {
            "float32_gflops": flop / best(lambda: a @ a),
            "float32_onednn_gflops": flop / best(lambda: product(a, a)),
            "bfloat16_gflops": flop / best(lambda: half @ half),
            "read_gb": long.nbytes / 1e9 / best(long.sum),
            "copy_gb": 2 * long.nbytes / 1e9 / best(lambda: other.copy_(long)),
        }


def conditions() -> dict[str, str | int]:
    """What a number depends on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def report(rows: list[dict[str, object]], path: Path | None, **more: object) -> None:
    """Print rows as a table and the rest below it; write everything as JSON where asked to."""
    lines: list[list[object]] = [list(rows[0]), *(list(row.values()) for row in rows)]
    for cells in lines:
        print("  ".join(_cell(value).rjust(14) for value in cells))
    for name, value in more.items():
        print(f"{name}: {value}")
    if path:
        path.write_text(json.dumps({"rows": rows, **more}, indent=1) + "\n", encoding="utf-8")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
