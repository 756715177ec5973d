"""The processes that train one field together, each on its share of every batch.

`torchrun` starts them and tells them their places by environment variables. Without these a process is alone, and
nothing of what is here changes a number.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from sinefield.errors import LONGEST, SinefieldError, lacks_memory

JOIN = 120.0
"""Seconds within which all processes have to come."""
WAIT = 600.0
"""Seconds that the others wait for one: it may be reading, compiling, scoring or saving."""


class Left(SinefieldError):
    """Another process has ended or does not answer; it says why itself."""


class Team:
    """A process that is alone. `Processes` is the same for several.

    Attributes:
        rank: this process's number, from 0 on. Number 0 leads: it alone writes, and speaks.
        size: how many processes there are.
    """

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This process's share of `n` things; the shares follow each other in the order of the processes.

        >>> Team().part(7)
        slice(0, 7, None)
        """
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def share(self, n: int) -> float:
        """How much of `n` things is this process's: what a mean over its own counts in that over all.

        >>> Team().share(7), Team().share(0)
        (1.0, 1.0)
        """
        own = self.part(n)
        return (own.stop - own.start) / n if n else 1.0

    def whole(self, own: Tensor, n: int) -> Tensor:
        """What all processes have found of `n` things, each of its `part`."""
        return own

    def spread(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A function of rows, each by itself, that every process does a share of."""
        return function

    def add_gradients(self, parameters: Sequence[Tensor], loss: float | Tensor) -> float | Tensor:
        """Give each parameter the sum of all processes' gradients; returns the sum of their losses."""
        return loss

    def meet(self, seconds: float, signum: int) -> tuple[float, int]:
        """The leader's seconds, and a signal that any process was sent, 0 if none was."""
        return seconds, signum

    def first(self, content: bytes) -> bytes:
        """The leader's bytes."""
        return content

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is wrong here for one process ends all of them; the leader says it. No process may wait for another in
        what may go wrong."""
        yield


ALONE = Team()


class Processes(Team):
    """This process as one of several, by `torch.distributed`, which has been set up."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def whole(self, own: Tensor, n: int) -> Tensor:
        found = own.new_zeros(n, *own.shape[1:])
        found[self.part(n)] = own
        return self._sum(found)

    def spread(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda rows: self.whole(function(rows[self.part(len(rows))]), len(rows))

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[Tensor], loss: float | Tensor) -> float | Tensor:
        """One sum for everything: gradients, which parameters have one at all, and the loss."""
        device = parameters[0].device
        have = [0.0 if p.grad is None else 1.0 for p in parameters]
        tail = torch.tensor([*have, 0.0 if isinstance(loss, Tensor) else loss], device=device)
        if isinstance(loss, Tensor):
            tail[-1] = loss
        grads = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        summed = self._sum(torch.cat([*grads, tail]))
        *parts, tail = summed.split([*(p.numel() for p in parameters), len(tail)])
        # Where a device would have to be waited for, a gradient of zeros stands for one that nobody has.
        anyone = tail[:-1].tolist() if device.type == "cpu" else [1.0] * len(parts)
        for p, part, found in zip(parameters, parts, anyone, strict=True):
            p.grad = part.view_as(p).to(p.dtype) if found else None
        return float(tail[-1]) if device.type == "cpu" else tail[-1]

    def meet(self, seconds: float, signum: int) -> tuple[float, int]:
        found = torch.zeros(1 + self.size, dtype=torch.float64)
        found[0], found[1 + self.rank] = seconds * self.leads, signum
        self._sum(found)
        return float(found[0]), int(found[1:].max())

    def first(self, content: bytes) -> bytes:
        length = int(self._sum(torch.tensor(len(content) * self.leads)))
        held = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.leads and length else torch.empty(0)
        return self._broadcast(held if self.leads else torch.empty(length, dtype=torch.uint8)) if length else b""

    @contextmanager
    def together(self) -> Iterator[None]:
        own = None
        try:
            yield
        except Left:
            raise
        except SinefieldError as error:
            own = error
        room = 4 * LONGEST
        said = str(own).encode()[:room] if own else b""
        line = torch.zeros(1, room, dtype=torch.uint8)
        line[0, : len(said)] = torch.tensor(list(said), dtype=torch.uint8)
        texts = [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in self._lines(line)]
        teller = next((rank for rank, text in enumerate(texts) if text), None)
        if teller is None:
            return
        if not self.leads:
            raise Left(texts[teller]) from own
        raise own or SinefieldError(f"process {teller} of {self.size}: {texts[teller]}")

    def _lines(self, line: Tensor) -> Tensor:
        found = line.new_zeros(self.size, line.shape[1])
        found[self.rank] = line[0]
        return self._sum(found)

    def _sum(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        with _failing():
            dist.all_reduce(x)
        return x

    def _broadcast(self, x: Tensor) -> bytes:
        import torch.distributed as dist

        with _failing():
            dist.broadcast(x, 0)
        return x.numpy().tobytes()


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's errors of connections and of waiting are such
        if lacks_memory(error):
            raise
        raise Left(
            f"another of the processes has ended, or has not answered for {WAIT:.0f} seconds; if it has not said why, "
            "see its machine; what was saved can be resumed (--resume)"
        ) from error


@contextmanager
def joined() -> Iterator[Team]:
    """The processes that this one is started with, by torchrun's environment variables; alone without them.

    All but the leader are silent in it: what they print is dropped, and of errors they tell only those of their own.

    Raises:
        SinefieldError: the variables make no sense, or not all processes come in time.
    """
    place = _place()
    if place is None:
        yield ALONE
        return
    rank, size = place
    _share_cores()
    team = Processes(rank, size)
    _join(team)
    try:
        with nullcontext() if team.leads else _silent():
            yield team
    except Left:
        if team.leads:
            raise
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if team.leads:
            raise
        raise SystemExit(130) from None
    except SinefieldError as error:
        if team.leads:
            raise
        raise SinefieldError(f"process {rank} of {size}: {error}") from error
    finally:
        import torch.distributed as dist

        dist.destroy_process_group()


def _place() -> tuple[int, int] | None:
    """Rank and number of processes; None for a process that is alone."""
    texts = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    if texts["WORLD_SIZE"] in ("", "1"):
        return None
    missing = [name for name, text in texts.items() if not text]
    numbers = [texts[name] for name in ("WORLD_SIZE", "RANK", "MASTER_PORT")]
    if missing or not all(text.isdecimal() and len(text) < 8 for text in numbers):
        given = " ".join(f"{name}={text}" for name, text in texts.items())
        raise SinefieldError(f"{given}: no place among several processes; start with torchrun, or unset WORLD_SIZE")
    size, rank = int(texts["WORLD_SIZE"]), int(texts["RANK"])
    if rank >= size or size < 1:
        raise SinefieldError(f"RANK is {rank} of WORLD_SIZE {size}; start with torchrun, or unset WORLD_SIZE")
    return rank, size


def _join(team: Processes) -> None:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    backend = _backend()
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN)))
        dist.init_process_group(
            backend, store=store, rank=team.rank, world_size=team.size, timeout=timedelta(seconds=WAIT)
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise SinefieldError(
            f"{address}: process {team.rank} of {team.size} has not met the others within {JOIN:.0f} seconds "
            f"({reason}); check the address, and that all processes run"
        ) from error


def _backend() -> str:
    """By which library processes talk: gloo on the CPU, and NCCL between GPUs, which takes one process each."""
    if not torch.cuda.is_available():
        return "gloo"
    devices, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local % devices)
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= devices
    return "cpu:gloo,cuda:nccl" if alone else "gloo"


def _share_cores() -> None:
    """Threads for this process, so that those of one machine share its cores; as many as told, where one is told."""
    if "NUMBA_NUM_THREADS" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    torch.set_num_threads(threads)
    numba: Any = sys.modules.get("numba")
    if numba is None:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    else:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


@contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        yield
