"""How much memory a device has left, how much was used at most, and keeping what is freed."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PROC = Path("/proc")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62
"""Control groups say "no limit" by a number near 2^63."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_FREE, MOST_FROM_THE_HEAP = 2**31 - 1, 2**30


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on a device, if no other takes them first.

    On the CPU the least of what the machine has available and what the control groups of this
    process allow; on a GPU what is free on it and what torch's allocator holds unused.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min([_available(), *_allowed()])


def _available() -> int:
    with suppress(OSError):
        return _kilobytes((PROC / "meminfo").read_text("utf-8"), "MemAvailable")
    # Where nobody says what is in use, half of all there is.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _kilobytes(text: str, name: str) -> int:
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def _allowed() -> Iterator[int]:
    """What each control group around this process leaves, of both versions.

    Pages of files that nobody has used lately count as free: they go when memory is asked for.
    """
    with suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = CONTROL_GROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = CONTROL_GROUPS / "memory"
                names = (
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                )
            else:
                continue
            own = root / path.lstrip("/")
            for group in (own, *own.parents):
                if group.is_relative_to(root):
                    yield from _left_in(group, *names)


def _left_in(group: Path, limit: str, usage: str, idle: str) -> Iterator[int]:
    # A group that is not mounted here says nothing, nor does "max".
    with suppress(OSError, ValueError):
        most = int((group / limit).read_text("utf-8"))
        used = int((group / usage).read_text("utf-8"))
        told = (group / "memory.stat").read_text("utf-8").splitlines()
        files = next((int(line.split()[1]) for line in told if line.split()[0] == idle), 0)
        if most < UNLIMITED:
            yield max(0, most - used + files)


class PeakMemory:
    """The most that this process held on a device since it began to look, in bytes.

    On a GPU: of torch's allocator, its tensors (`used`) and all that it keeps (`reserved`). On the
    CPU: resident memory above that at the beginning, which is what the machine is really short of
    then, libraries and what the C library keeps included; the two numbers are the same.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.before = self._now()
        """What was in use when it began."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Without it the peak is that of the process's whole life, at least what is asked for.
            with suppress(OSError):
                (PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")

    @property
    def used(self) -> int:
        """Of tensors on a GPU; of the process, beyond what it had before, on the CPU."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, _most_resident() - self.before)

    @property
    def reserved(self) -> int:
        """As `used`, with what the allocator keeps for later."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        return self.used

    def _now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        with suppress(OSError):
            return _kilobytes((PROC / "self" / "status").read_text("utf-8"), "VmRSS")
        return _most_resident()


def _most_resident() -> int:
    with suppress(OSError):
        return _kilobytes((PROC / "self" / "status").read_text("utf-8"), "VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed, for the process's life; other ones than glibc do as
    they please.

    Else every large tensor goes back to the system and comes back as new pages, which takes 6 to 8
    % of a training step on the CPU (docs/performance.md). For processes that allocate the same
    again and again.
    """
    if sys.platform == "linux" and hasattr(glibc := ctypes.CDLL(None), "gnu_get_libc_version"):
        glibc.mallopt(M_MMAP_THRESHOLD, MOST_FROM_THE_HEAP)
        glibc.mallopt(M_TRIM_THRESHOLD, KEPT_FREE)
