"""A fleet from start to end: what is still to be done is sent out, what comes back is kept, progress is told."""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinefield.config import make_config
from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_named
from sinefield.fleet.child import Answer
from sinefield.fleet.cluster import Cluster
from sinefield.fleet.items import Item
from sinefield.fleet.progress import Progress
from sinefield.fleet.store import FleetStore, Result, row_of
from sinefield.fleet.work import content_mark
from sinefield.learning.budget import CHOSEN
from sinefield.strict import load_yaml, set_dotted

AHEAD = 2
"""Tasks sent for each core, so that none waits for the driver."""
CHUNK_SECONDS, LARGEST_CHUNK = 0.5, 200
"""Items that are done in no time go together, as many as take so long."""
MARKING = 4
"""Threads that hash what items read, and how many times as many items they are ahead of what is sent."""
PERIOD = 0.5
LOST = {"status": "failed", "error": "its process or node was lost again and again"}


@dataclass(frozen=True)
class Plan:
    """What is done for every item.

    Attributes:
        scene: a scene file's content, as plain data.
        max_bytes: of each file; 8 bits a number when None.
        packing: steps with rounded weights, in times of those of training.
        resize: choose the network by the bytes, but for items that say themselves how large it is.
        memory: MiB that an item may take.
        timeout: seconds that it may last.
        retries: times that an item that failed is tried again.
        gpu: share of a GPU that each item has.
        do: "fit", or "nothing" to measure what everything else takes.
        base: of a fleet of codes the content of its base's file, in base64.
        chunk: items of a task; by the time they take when None.
    """

    scene: dict[str, Any]
    max_bytes: int | None = None
    packing: float = 1.0
    resize: bool = True
    memory: int = 4096
    timeout: float = 3600.0
    retries: int = 1
    gpu: float = 0.0
    do: str = "fit"
    base: str | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("memory", 1), ("retries", 0), ("max_bytes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SinefieldError(f"--{name.replace('_', '-')} {value}; should be at least {least}")
        if not self.timeout > 0:
            raise SinefieldError(f"--timeout {self.timeout:g}; should be above 0")
        if not 0 <= self.packing <= 100 or not 0 <= self.gpu <= 64:
            raise SinefieldError(f"--packing {self.packing:g} should lie in 0 to 100, --gpu {self.gpu:g} in 0 to 64")
        config = make_config({**self.scene, "data": {**self.scene.get("data", {}), "path": "-"}}, "the scene")
        if config.training.steps is None:
            raise SinefieldError("a fleet counts steps, so that results repeat; set training.steps")

    def request(self, item: Item) -> dict[str, Any]:
        """What a worker is asked.

        Raises:
            SinefieldError: an override that cannot be put into the scene.
        """
        scene = with_settings(self.scene, item.overrides)
        if item.seed is not None:
            scene["seed"] = item.seed
        if self.base is not None:
            return {"do": "code", "scene": scene, "path": item.path, "base": self.base}
        resize = self.resize and not any(f"field.{name}" in item.overrides for name in CHOSEN)
        packed = {"max_bytes": self.max_bytes, "packing": self.packing, "resize": resize}
        return {"do": self.do, "scene": scene, "path": item.path, **packed}


def load_scene(path: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A scene file's content with settings put in by their dotted names.

    Raises:
        SinefieldError: see `load_yaml` and `set_dotted`; data.path is given, which the items say.
    """
    if "data.path" in settings:
        raise SinefieldError("--data.path: the items say where the data are; leave it out")
    scene = load_yaml(path)
    if isinstance(scene.get("data"), dict):
        scene["data"].pop("path", None)
    return with_settings(scene, settings)


def with_settings(scene: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A copy with settings by their dotted names, as text or as plain values.

    >>> with_settings({"kind": "shape"}, {"field.width": 24, "training.steps": "100"})
    {'kind': 'shape', 'field': {'width': 24}, 'training': {'steps': 100}}
    """
    copy = deepcopy(scene)
    for name, value in settings.items():
        set_dotted(copy, name, value if isinstance(value, str) else json.dumps(value))
    return copy


def prepare(items: list[Item], plan: Plan, store: FleetStore, overwrite: bool = False) -> None:
    """Open a fleet's store, before any work.

    Raises:
        SinefieldError: it belongs to another fleet, holds other things, cannot be written, or is written by another.
    """
    store.begin(plan.scene["kind"], overwrite)
    known = {item.id for item in items}
    if strange := next((name for name in store.rows if name not in known), None):
        raise SinefieldError(
            f"{store.place.where}: belongs to another fleet: it has {strange}, which is none of these items; "
            "give another --out, or --overwrite"
        )


def run_fleet(items: list[Item], plan: Plan, store: FleetStore, cluster: Cluster, title: str) -> dict[str, Any]:
    """Make the field of every item that is not made yet, into a store that `prepare` has opened.

    What is done when the process ends, however it ends, is kept but for the last seconds; the same call goes on.

    Returns:
        items, done, kept (done before), failed, per_hour, bytes, score (mean), and the errors of some that failed.

    Raises:
        SinefieldError: the store cannot be written; a node has other versions.
    """
    fleet = _Fleet(items, plan, store, cluster)
    try:
        fleet.run()
    finally:
        store.flush()
        fleet.progress.show(last=True)
    store.finish(title)
    return fleet.report()


@dataclass
class _Job:
    item: Item
    key: str
    request: dict[str, Any]
    tries: int = 1


class _Fleet:
    """A fleet under way."""

    def __init__(self, items: list[Item], plan: Plan, store: FleetStore, cluster: Cluster) -> None:
        self.items, self.plan, self.store, self.cluster = items, plan, store, cluster
        kind = kind_named(plan.scene["kind"])
        self.progress = Progress(len(items), 0, kind.score)
        self.fresh, self.again = self._jobs(), deque[_Job]()
        self.pending: dict[Any, list[_Job]] = {}
        self.taken, self.spent = 0, 0.0

    def run(self) -> None:
        """Until nothing is left to do."""
        while True:
            cores = max(self.cluster.cores(), 1)
            while len(self.pending) < AHEAD * cores and (jobs := self._chunk()):
                requests = [job.request for job in jobs]
                sent = self.cluster.submit(requests, self.plan.memory, self.plan.timeout)
                self.pending[sent] = jobs
            if not self.pending:
                return
            for sent in self.cluster.wait(list(self.pending), PERIOD):
                answers = self.cluster.take(sent)
                jobs = self.pending.pop(sent)
                for job, answer in zip(jobs, answers or [(LOST, b"")] * len(jobs), strict=True):
                    self._settle(job, answer)
            self.store.tick()
            self.progress.show()

    def _chunk(self) -> list[_Job]:
        """What goes out together."""
        size = self.plan.chunk
        if size is None:
            mean = self.spent / self.taken if self.taken >= 10 else CHUNK_SECONDS
            size = min(max(int(CHUNK_SECONDS / max(mean, 1e-6)), 1), LARGEST_CHUNK)
        jobs = []
        while len(jobs) < size:
            job = next(self.fresh, None)
            if job is None:
                if not self.again:
                    break
                job = self.again.popleft()
            jobs.append(job)
        return jobs

    def _settle(self, job: _Job, answer: Answer) -> None:
        """Keep what came back; send it out again where it failed and may be retried."""
        report, content = answer
        self.taken += 1
        self.spent += report.get("seconds") or 0.0
        if report["status"] != "ok" and job.tries <= self.plan.retries:
            job.tries += 1
            self.again.append(job)
            return
        self._keep(job.item, job.key, report, content, job.tries)

    def _keep(self, item: Item, key: str, report: dict[str, Any], content: bytes, tries: int) -> None:
        status = "ok" if report["status"] == "ok" else "quarantined"
        row = row_of(item, key, self.plan.scene, {**report, "status": status}, len(content), tries)
        self.store.add(Result(row, content))
        self.progress.add(row)

    def _jobs(self) -> Iterator[_Job]:
        """What is missing, changed or failed, in the items' order; inputs are hashed a little ahead."""
        with ThreadPoolExecutor(MARKING) as pool:
            ahead: deque[tuple[Item, Future[str]]] = deque()
            left = iter(self.items)
            while True:
                while len(ahead) < 4 * MARKING and (item := next(left, None)) is not None:
                    ahead.append((item, pool.submit(content_mark, item.path)))
                if not ahead:
                    return
                item, mark = ahead.popleft()
                if (job := self._job(item, mark)) is not None:
                    yield job

    def _job(self, item: Item, mark: "Future[str]") -> _Job | None:
        try:
            request = self.plan.request(item)
            key = key_of(request, mark.result())
        except SinefieldError as error:
            self._keep(item, "", {"status": "failed", "error": str(error)}, b"", 1)
            return None
        before = self.store.rows.get(item.id)
        if before is not None and before["status"] == "ok" and before["key"] == key:
            self.progress.kept += 1
            return None
        return _Job(item, key, request)

    def report(self) -> dict[str, Any]:
        """What became of all items, those done before among them."""
        rows = list(self.store.rows.values())
        good = [row for row in rows if row["status"] == "ok"]
        scores = [row["score"] for row in good if row["score"] is not None]
        failed = [f"{row['id']}: {row['error']}" for row in rows if row["status"] != "ok"]
        return {
            "out": self.store.place.where,
            "items": len(self.items),
            "done": len(good),
            "kept": self.progress.kept,
            "failed": len(failed),
            "per_hour": round(self.progress.per_hour, 1),
            "bytes": sum(row["bytes"] for row in good),
            "score": round(sum(scores) / len(scores), 5) if scores else None,
            "errors": failed[:20],
        }


def key_of(request: dict[str, Any], mark: str) -> str:
    """Hash of what an item's result follows from: settings and content, not its place."""
    told = json.dumps({name: value for name, value in request.items() if name != "path"}, sort_keys=True)
    return hashlib.blake2b(f"{told}\n{mark}".encode(), digest_size=16).hexdigest()
