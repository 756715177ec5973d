"""Ray's part: this machine alone or a cluster, and tasks of one core that are sent to it and come back.

A task is a few items. Its process on a node keeps one `child.Apart`, so that the package is loaded once a process.
Where a node or a process dies, Ray runs its tasks elsewhere.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from sinefield.errors import SinefieldError
from sinefield.fleet.child import THREADS, Answer, Apart
from sinefield.fleet.store import versions

WAIT = 15.0
"""Seconds in which an address has to answer."""
AGAIN = 20
"""Times that a task is run once more because a node or a process died; an item's own faults do not count here."""
STORE = 256 << 20
"""Bytes of the object store on this machine: results are small."""

_apart: dict[str, Apart] = {}


class Unlike(Exception):
    """A node has other versions than the driver."""


def do_items(requests: list[dict[str, Any]], memory: int, seconds: float, wanted: dict[str, str]) -> list[Answer]:
    """What runs on a node: each request's report and bytes.

    Raises:
        Unlike: the node has other versions.
    """
    node = socket.gethostname()
    found = versions()
    if other := [f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]:
        raise Unlike(f"{node}: has {', '.join(other)}")
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    apart = _apart.setdefault(devices, Apart(warm=any(request["do"] == "fit" for request in requests)))
    answers = []
    for request in requests:
        report, content = apart.do(request, memory, seconds)
        answers.append(({**report, "node": node, "versions": found}, content))
    return answers


class Cluster:
    """A connection to Ray, which is started on this machine where no address is given.

    Arguments:
        address: of a cluster's head, `host:port` or `auto`; None for this machine alone.
        cores: of this machine that are used, where it is alone; all when None.
        gpu: share of a GPU that each task has.

    Raises:
        SinefieldError: Ray is not installed, or the address does not answer.
    """

    def __init__(self, address: str | None = None, cores: int | None = None, gpu: float = 0.0) -> None:
        self.ray = _ray()
        self.gpu, self.looked, self.known = gpu, -1.0, 0
        given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
        if address is None:
            given |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE}
        else:
            _answers(address)
            given["address"] = address
        try:
            self.ray.init(**given)
        except Exception as error:  # Ray has many
            where = address or "this machine"
            remedy = "is it too busy, or another Ray running? see ray status"
            raise SinefieldError(f"{where}: Ray does not start ({_first(error)}); {remedy}") from error
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpu or None, "max_retries": AGAIN}
        self.task: Callable[..., Any] = self.ray.remote(**options)(do_items).remote

    def cores(self) -> int:
        """Items that run at the same time, as the cluster is now, or was a second ago."""
        if time.monotonic() - self.looked > 1:
            self.looked, self.known = time.monotonic(), self._cores()
        return self.known

    def _cores(self) -> int:
        found = self.ray.cluster_resources()
        cores = int(found.get("CPU", 0))
        return min(cores, int(found.get("GPU", 0) / self.gpu)) if self.gpu else cores

    def submit(self, requests: list[dict[str, Any]], memory: int, seconds: float) -> Any:
        """Send a task; returns what `wait` takes."""
        return self.task(requests, memory, seconds, versions())

    def wait(self, pending: list[Any], seconds: float) -> list[Any]:
        """Those that have come back, some of them after at most so long."""
        ready, _ = self.ray.wait(pending, num_returns=len(pending), timeout=0)
        if not ready:
            ready, _ = self.ray.wait(pending, num_returns=1, timeout=seconds)
        return ready

    def take(self, sent: Any) -> list[Answer] | None:
        """A task's answers; None where Ray gave it up.

        Raises:
            SinefieldError: a node has other versions.
        """
        try:
            return self.ray.get(sent)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Unlike):
                raise SinefieldError(f"{error.cause}; install the same versions on every node") from error
            print(f"sinefield: a task failed: {_first(error.cause or error)}", file=sys.stderr)
            return None
        except self.ray.exceptions.RayError as error:
            print(f"sinefield: a task was lost: {_first(error)}", file=sys.stderr)
            return None

    def close(self) -> None:
        """Leave the cluster; what was started here ends."""
        self.ray.shutdown()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ray() -> Any:
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **THREADS}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise SinefieldError("ray is not installed; pip install 'sinefield[fleet]'") from error
    return ray


def _answers(address: str) -> None:
    """Refuse an address at which nobody answers, before Ray tries it for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise SinefieldError(f"--address {address}: should read HOST:PORT, as ray start prints it, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=WAIT).close()
    except (OSError, OverflowError) as error:
        raise SinefieldError(
            f"--address {address}: does not answer within {WAIT:g} s ({error}); is ray start --head running there?"
        ) from error


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
