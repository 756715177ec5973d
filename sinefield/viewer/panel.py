"""Sliders, buttons and texts beside the picture, and what they say at present."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from sinefield.fields.base import kind_of
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.metrics import SCORES
from sinefield.viewer.follow import Follower, Snapshot
from sinefield.viewer.picture import CHANNELS

SHAPE_CHANNELS = ("shaded", "normals")
MIN_CURVE = 2


class Settings(NamedTuple):
    """What the sliders say: resolution in pixels along the longer side or samples along the box's longest side."""

    channel: str
    level: float
    resolution: int


class Panel:
    """The page's controls, shared by all its visitors.

    Arguments:
        server: viser's.
        changed: called, from any thread, after a slider was moved.
    """

    def __init__(self, server: Any, field: RadianceField | ShapeField, name: str, changed: Callable[[], None]) -> None:
        gui = server.gui
        self.name = name
        self._text = gui.add_markdown(f"**{name}**")
        self._progress = gui.add_markdown("")
        if kind_of(field).shows == "light":
            channels, (low, high, level), hint = CHANNELS, (0.0, 1.0, 0.0), "Hide pixels of less opacity."
            sizes, resolution = (64, 1024, 32), 512
        else:
            shape = cast("ShapeField", field)  # or of a kind that is asked alike
            channels, (low, high, level), hint = SHAPE_CHANNELS, level_range(shape), "Value of the surface shown."
            sizes, resolution = (32, 256, 16), 128
        self._channels, self._levels, self._sizes = channels, (low, high), sizes[:2]
        self._channel = gui.add_dropdown("Channel", channels, initial_value=channels[0])
        self._level = gui.add_slider("Level", low, high, (high - low) / 100, level, hint=hint)
        self._resolution = gui.add_slider("Resolution", *sizes, resolution)
        hint = "Fields saved since the viewer was opened, the nearest is shown; at its end, always the newest."
        self._step = gui.add_slider("Step", 0, 1, 1, 1, disabled=True, hint=hint)
        self._newest = True
        self.reset = gui.add_button("Reset camera")
        self.save = gui.add_button("Save picture")
        self._gui, self._curve = gui, None
        for control in (self._channel, self._level, self._resolution):
            control.on_update(lambda _: changed())

        @self._step.on_update
        def _(event: Any) -> None:
            if event.client is not None:  # moved by a person, not by `tell`
                self._newest = self._step.value >= self._step.max
                changed()

    @property
    def settings(self) -> Settings:
        """Within what the controls offer, whatever a page sent."""
        channel, level, resolution = self._channel.value, float(self._level.value), int(self._resolution.value)
        channel = channel if channel in self._channels else self._channels[0]
        return Settings(channel, _within(level, self._levels), _within(resolution, self._sizes))

    def chosen(self, follower: Follower) -> Snapshot:
        """The field that the step slider points at."""
        return follower.snapshots[-1] if self._newest else follower.nearest(int(self._step.value))

    def say(self, text: str) -> None:
        """How the picture gets on."""
        if self._progress.content != text:
            self._progress.content = text

    def tell(self, follower: Follower, problem: str | None) -> None:
        """Bring texts, curve and the step slider up to date with the run."""
        newest = follower.snapshots[-1]
        lines = [f"**{self.name}**: {newest.field.kind} field, {_state(follower)}"]
        if follower.metrics:
            lines.append(_scores(follower.metrics[-1]))
        if problem:
            lines.append(f"**{problem}**")
        self._text.content = "\n\n".join(lines)
        self._step.disabled = len(follower.snapshots) < 2
        last = max(newest.step, 1)
        first = follower.snapshots[0].step if len(follower.snapshots) > 1 else 0
        self._step.min, self._step.max = min(first, last - 1), last
        if self._newest:
            self._step.value = last
        self._draw_curve(follower.metrics, kind_of(newest.field).score)

    def _draw_curve(self, metrics: list[dict[str, Any]], score: str) -> None:
        from viser import uplot

        points = [(line.get("seconds"), line.get(score)) for line in metrics]
        points = [p for p in points if all(isinstance(v, int | float) and math.isfinite(v) for v in p)]
        if len(points) < MIN_CURVE:
            return
        x, y = np.array(points, np.float64).T
        if self._curve is None:
            series = (uplot.Series(label="seconds"), uplot.Series(label=SCORES[score], stroke="#2a6fdb", width=2))
            scales = {"x": uplot.Scale(time=False)}
            self._curve = self._gui.add_uplot((x, y), series, title=SCORES[score], scales=scales, aspect=1.6)
        else:
            self._curve.data = (x, y)


def _within(value: Any, limits: tuple[Any, Any]) -> Any:
    return min(max(value, limits[0]), limits[1])


def level_range(field: ShapeField) -> tuple[float, float, float]:
    """Lowest, highest and usual level of a shape's surface: within the band it learned, or between empty and full."""
    if not field.distance:
        return 0.02, 0.98, 0.5
    reach = float(field.config.band / field.scale)
    return -reach, reach, 0.0


def _state(follower: Follower) -> str:
    newest = follower.snapshots[-1]
    spent = "" if newest.seconds is None else f" after {newest.seconds:.0f} s"
    return f"step {newest.step:,}{spent}" + (", in training" if follower.training else "")


def _scores(line: dict[str, Any]) -> str:
    shown = {"loss": "loss", **SCORES}
    parts = [f"{name} {line[key]:.4g}" for key, name in shown.items() if isinstance(line.get(key), int | float)]
    return f"Last scored at step {line.get('step')}: " + ", ".join(parts)
