"""Joining the processes that a launcher started, for work that shares nothing but its results."""

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from dalle.errors import ConfigError, RankError
from dalle.processes import ALONE, TIMEOUT, Processes

PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that a launcher started, or this one alone.

    While it is entered, SIGTERM, by which launchers end the others when one has failed, unwinds
    as Ctrl-C does: what is being written is finished or removed.

    Raises:
        ConfigError: the launcher's variables are there, but none started this process.
        RankError: the others do not come.
    """
    if num_launched() == 1:
        yield ALONE
        return
    stop_with_launcher()
    with _unwinding():
        ours = not dist.is_initialized()
        if ours:
            _join()
        try:
            yield Processes(
                rank=dist.get_rank(), size=dist.get_world_size(), control=control_group()
            )
        finally:
            if ours:
                dist.destroy_process_group()


def _join() -> None:
    try:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    except ValueError as error:
        raise ConfigError(
            f"the launcher's settings do not work here ({error}); start with `torchrun "
            "--nproc_per_node N`"
        ) from error
    except RuntimeError as error:
        raise RankError(
            f"the processes cannot reach one another ({str(error).splitlines()[0]}); run the same "
            "command again"
        ) from error


def num_launched() -> int:
    """How many processes a launcher started, this one among them; 1 without a launcher.

    Raises:
        ConfigError: WORLD_SIZE says many, but no launcher started this process.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1 and "LOCAL_RANK" not in os.environ:
        raise no_launcher(f"WORLD_SIZE is {launched}")
    return launched


def no_launcher(what: str) -> ConfigError:
    """What to say when `what` is set, but no launcher started this process."""
    return ConfigError(
        f"{what}, but no launcher started this process (it has no LOCAL_RANK): start it with "
        "`torchrun --nproc_per_node N` or `accelerate launch`, or unset the variable"
    )


def control_group() -> Any:
    """The group of all processes for what is small, on the host; None for one process."""
    if dist.get_world_size() == 1:
        return None
    if dist.get_backend() == "gloo":
        group = dist.group.WORLD
    else:
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    atexit.register(end_group, weakref.ref(group))
    return group


def end_group(reference: "weakref.ref[Any]") -> None:
    """End a group that talks on the host, and its threads, before Python shuts down.

    One of them may just be about to free the tensor of the last exchange. When it asks Python for
    that while the interpreter shuts down, the process ends by SIGABRT, its work well done.
    """
    group = reference()
    if group is not None:
        with contextlib.suppress(ValueError):  # it has been ended
            dist.destroy_process_group(group)
    # Its threads end with the last object that refers to it, which a cycle may keep.
    del group
    gc.collect()


def own_device(name: str) -> str:
    """What a device means to one process of several on a machine: each has its own GPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ConfigError: there are too few GPUs, or all processes were given the same one.
    """
    if name.startswith("cuda:"):
        raise ConfigError(
            f"device is {name!r}, the same GPU for all processes; take auto or cuda, which gives "
            "each its own, or cpu"
        )
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        raise ConfigError(
            f"this machine has {gpus} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', local + 1)} "
            "processes; start one for each GPU, or set device to cpu"
        )
    # Else whatever asks for the current device takes memory on the first GPU.
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def stop_with_launcher() -> None:
    """Ask the kernel to send SIGTERM to this process when its launcher dies.

    Only for processes that a launcher started (they have LOCAL_RANK): without it the death of
    torchrun or `accelerate launch` leaves them working on.
    """
    if sys.platform == "linux" and "LOCAL_RANK" in os.environ:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # what is being finished is not interrupted again
    raise SystemExit(128 + number)
