"""What a fleet of codes has beside a fleet of fields: the network that its shapes share, in the file base.sine."""

import base64
import sys
from collections import deque
from typing import Any

import numpy as np

from sinefield.compress.container import MAX_FILE, encode
from sinefield.config import make_config
from sinefield.errors import SinefieldError
from sinefield.fields.shared.field import SharedConfig, SharedField
from sinefield.files import read_bytes, scratch_folder
from sinefield.fleet.cluster import Cluster
from sinefield.fleet.items import Item
from sinefield.fleet.run import AHEAD, PERIOD, Plan
from sinefield.fleet.store import BASE, FleetStore
from sinefield.learning.shared import Samples, train_base
from sinefield.store.fields import load_field
from sinefield.store.sine_files import to_packed


def shared_config(scene: dict[str, Any]) -> SharedConfig:
    """The settings of a scene file for a shared network.

    Raises:
        SinefieldError: one of another kind.
    """
    config = make_config({**scene, "data": {**scene.get("data", {}), "path": "-"}}, "the scene")
    if not isinstance(config, SharedConfig):
        raise SinefieldError(f"--shared takes a scene of kind shared, not {config.kind}; see scenes/shared.yaml")
    return config


def given_base(path: str) -> bytes:
    """The content of a base's file.

    Raises:
        SinefieldError: it is none, or is damaged.
    """
    content = read_bytes(path, MAX_FILE, "base")
    opened_base(content, path)
    return content


def opened_base(content: bytes, where: str) -> SharedField:
    """A base from its file's content; raises SinefieldError for what is none."""
    with scratch_folder() as folder:
        file = folder / "base.sine"
        file.write_bytes(content)
        try:
            field, _ = load_field(file)
        except SinefieldError as error:
            raise SinefieldError(str(error).replace(str(file), where)) from error
    if not isinstance(field, SharedField):
        raise SinefieldError(f"{where}: is a {field.kind} field, not what sinefield fleet --shared learns")
    return field


def find_base(items: list[Item], plan: Plan, store: FleetStore, cluster: Cluster, given: bytes | None) -> str:
    """The fleet's base, as text for `Plan.base`: the one it has, the given one, or one that is learned from its items.

    Raises:
        SinefieldError: the fleet has another base than the given one; too few items could be read to learn from.
    """
    held = store.place.read(BASE) if store.place.has(BASE) else None
    if held is not None and given is not None and held != given:
        raise SinefieldError(
            f"{store.place.where}: has another base than the given one; give another --out, or --overwrite"
        )
    if held is None:
        held = given if given is not None else learned(items, plan, cluster)
        opened_base(held, BASE)
        store.place.write(BASE, held)
    elif opened_base(held, f"{store.place.where}/{BASE}").config != shared_config(plan.scene).field and given is None:
        raise SinefieldError(
            f"{store.place.where}: has a base of other field settings; give another --out, or --overwrite"
        )
    return base64.b64encode(held).decode()


def learned(items: list[Item], plan: Plan, cluster: Cluster) -> bytes:
    """Learn a base from at most `training.shapes` of the items, evenly taken; what cannot be read is left out."""
    config = shared_config(plan.scene)
    count = min(config.training.shapes, len(items))
    chosen = [items[i * len(items) // count] for i in range(count)]
    print(f"fleet: learns a network from {count:,} of {len(items):,} shapes", file=sys.stderr)
    parts = _sampled(chosen, plan, cluster, config.data.points or 0)
    if not parts:
        raise SinefieldError("none of the items can be read, so that nothing is shared; run without --shared for why")
    field, quantisers = train_base(config, Samples(*(np.concatenate(kind) for kind in zip(*parts, strict=True))))
    return encode(to_packed(field, quantisers, {}))


def _sampled(items: list[Item], plan: Plan, cluster: Cluster, n: int) -> list[Samples]:
    """Labelled points of the items, in their order, each made in a process of its own like the items' fields."""
    waiting, pending, found = deque(enumerate(items)), {}, {}
    while waiting or pending:
        while waiting and len(pending) < AHEAD * max(cluster.cores(), 1):
            place, item = waiting.popleft()
            request = {**plan.request(item), "do": "sample"}
            pending[cluster.submit([request], plan.memory, plan.timeout)] = place
        for sent in cluster.wait(list(pending), PERIOD):
            place = pending.pop(sent)
            for report, content in cluster.take(sent) or []:
                if report["status"] == "ok" and len(content) == 16 * n:
                    rows = np.frombuffer(content, np.float32).reshape(4, n)
                    found[place] = Samples(rows[:3].T[None], rows[3][None])
    return [found[place] for place in sorted(found)]
