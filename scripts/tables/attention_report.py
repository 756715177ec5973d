"""Tables and plots of attention.py, from its finished runs alone."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attention_runs import Row, listed, mean_error

from sinefield.files import atomic_path, write_text
from sinefield.machine import describe_machine
from sinefield.tables import table
from sinefield.transformers.norms import bounds

Results = dict[str, list[Row]]
COLOURS = ("#111111", "#8a8a8a", "#1f6f8b", "#7fb7c9", "#b5482a", "#e0a08c", "#5a7d2a", "#8e5aa8")


def percent(rows: list[Row], column: str = "test") -> str:
    """Mean ± standard error over seeds, in percent."""
    mean, error = mean_error([100 * float(r[column]) for r in rows])
    return f"{mean:.1f}" + ("" if np.isnan(error) else f" ± {error:.1f}")


def against(rows: list[Row], others: list[Row]) -> str:
    """Mean difference at equal seeds, hence equal data, ± standard error, in percentage points."""
    own = {r["seed"]: float(r["test"]) for r in others}
    pairs = [100 * (float(r["test"]) - own[r["seed"]]) for r in rows if r["seed"] in own]
    if rows is others or not pairs:
        return ""
    mean, error = mean_error(pairs)
    return f"{mean:+.1f}".replace("-", "−") + ("" if np.isnan(error) else f" ± {error:.1f}")


def shared(found: Results, base: str = "softmax") -> list[dict]:
    """Columns that every table begins with."""
    rows = []
    for name, runs in found.items():
        lr = runs[0]["lr"]
        diverged = sum(r["diverged"] == "True" for r in runs)
        row = {"contender": name, "parameters": int(runs[0]["params"]), "rate": lr, "test %": percent(runs)}
        row[f"against {base}"] = against(runs, found[base]) if base in found else ""
        row["diverged"] = f"{diverged} of {len(runs)}" if diverged else ""
        rows.append(row)
    return rows


def average(rows: list[Row], column: str) -> np.ndarray:
    """Mean over seeds of a list; runs that broke off early are left out."""
    lists = [listed(r, column) for r in rows]
    longest = max(map(len, lists))
    return np.mean([x for x in lists if len(x) == longest], axis=0)


class Place(NamedTuple):
    """Where pages go, and what follows their names: that of the pictures, where they are not the digits."""

    folder: Path
    suffix: str = ""

    def file(self, name: str, end: str) -> Path:
        return self.folder / f"{name}{self.suffix}.{end}"


def about(setup, found: Results, out: Place) -> str:
    """What was trained, in one paragraph."""
    rates = ", ".join(f"{r:g}" for r in setup.rates)
    minutes = sum(int(setup.steps) * float(r["ms_a_step"]) for rows in found.values() for r in rows) / 6e4
    shape = f"{setup.depth} layers of {setup.dim} channels, {setup.heads} heads, patches of {setup.patch}×{setup.patch}"
    return (
        f"A randomly initialised `transformers.ViTForImageClassification` on {setup.data} ({setup.side}×{setup.side}\n"
        f"pixels): {shape},\nso {setup.tokens} tokens with the class token; pre-norm, matrices drawn at "
        f"1/√{setup.dim}, no dropout, no augmentation. {setup.steps} steps of\n{setup.batch} images, AdamW (decay "
        "0.05), a tenth of the steps warm-up, then cosine, gradients clipped at 1. Each contender had the\nlearning "
        f"rates {rates} with the first seed, and the one best on validation images with all seeds\n"
        f"({max(map(len, found.values()))}). ± is the standard error over seeds; each seed draws split and weights. "
        f"{minutes:.0f} minutes of steps in\nthe runs shown, {describe_machine()['cpu']}, one thread. "
        f"All runs: {out.file('attention_vit', 'csv').name}.\n"
    )


def page(name: str, title: str, text: list[str], out: Place) -> None:
    picture = f"![{title}]({out.file(name, 'png').name})"
    write_text(out.file(name, "md"), "\n\n".join([f"# {title}", *text, picture]) + "\n")


def figure(panels: int, width: float = 4.6):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = Figure(figsize=(width * panels, 4.1), layout="constrained")
    FigureCanvasAgg(found)
    return found, np.atleast_1d(found.subplots(1, panels))


def save(found, name: str, out: Place) -> None:
    with atomic_path(out.file(name, "png")) as path:
        found.savefig(path, dpi=110)


def dots(axis, found: Results, label: str, factor: float = 100, colours: list[str] | None = None) -> None:
    """Each seed a dot, the mean a line, contenders from top to bottom."""
    for i, rows in enumerate(found.values()):
        values = [factor * float(r["test"]) for r in rows]
        colour = (colours or COLOURS)[i % len(colours or COLOURS)]
        axis.plot(values, [i] * len(values), "o", color=colour, alpha=0.55, ms=6)
        axis.plot([np.mean(values)] * 2, [i - 0.3, i + 0.3], color=colour, lw=2.5)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.grid(alpha=0.3, axis="x")


def limits(name: str, n: int, d: int) -> tuple[float, float]:
    """Bounds of ‖A‖_F and ‖∂A/∂x‖_F of a contender of the activations."""
    if name.startswith("softmax"):
        return tuple(b / (n**0.5 if "√N" in name else 1) for b in bounds(n, d))
    return bounds(n, d, 3 if "³" in name else 1, divisor=None if "√N" in name else 1.0)


def norms(found: Results, n: int, d: int, all_are: str = "") -> list[dict]:
    """Norms at the start and the end beside their bounds, and whether the largest seen stays below."""
    rows = []
    for name, runs in found.items():
        row = {"contender": name}
        for column, sign, limit in zip(
            ("matrix", "jacobian"), ("‖A‖", "‖∂A‖"), limits(all_are or name, n, d), strict=True
        ):
            values = average(runs, column)
            largest = max(float(np.nanmax(listed(r, f"{column}_max"))) for r in runs)
            row |= {f"{sign} first": f"{values[0]:.3g}", f"{sign} last": f"{values[-1]:.3g}"}
            row |= {f"largest {sign}": f"{largest:.3g}", f"bound {sign}": f"{limit:.3g}"}
        rows.append(row)
    return rows


def norm_panels(axes, found: Results, n: int, d: int) -> None:
    for axis, column, place, title in zip(axes, ("matrix", "jacobian"), (0, 1), ("‖A‖", "‖∂A/∂x‖"), strict=True):
        for i, (name, rows) in enumerate(found.items()):
            colour = COLOURS[i % len(COLOURS)]
            steps = max((listed(r, "steps") for r in rows), key=len)
            axis.plot(steps, average(rows, column), color=colour, marker=".", label=name)
            axis.axhline(limits(name, n, d)[place], color=colour, lw=0.8, ls=":")
        axis.set(yscale="log", xlabel="step", title=f"{title}, mean; dotted: bound or expectation")
        axis.grid(alpha=0.3)


NORMS = (
    "‖·‖ are Frobenius norms of one head's attention matrix and of its Jacobian by the scaled scores, means over "
    "layers, heads, images and\nseeds; `largest` is the largest of any head and image at any of the looks. `bound` is "
    "a bound of softmax (√N and 2√N) and, for powers,\nthe root mean square that normal queries and keys have "
    "([attention.md](../attention.md)), which training is free to exceed."
)


def draw_norms(name: str, score: str, found: Results, n: int, d: int, out: Place) -> None:
    """Scores beside norms through training."""
    drawn, axes = figure(3)
    dots(axes[0], found, score)
    norm_panels(axes[1:], found, n, d)
    axes[2].legend(frameon=False, fontsize=8)
    save(drawn, name, out)


def activations(found: Results, setup, out: Place) -> None:
    n, d = setup.tokens, setup.dim // setup.heads
    rows, lines, inside = shared(found), norms(found, n, d), depths(found, ("tokens", "output"))
    text = [about(setup, found, out), table(list(rows[0]), rows, markdown=True)]
    text += [NORMS, table(list(lines[0]), lines, markdown=True)]
    text += [CONDITION + " First / middle / last layer.", table(list(inside[0]), inside, markdown=True)]
    page("attention_activations", "Attention by softmax, x and x³ in a small ViT", text, out)
    draw_norms("attention_activations", "test accuracy, %", found, n, d, out)


CONDITION = (
    "log₁₀ κ: condition number of an image's tokens as a matrix (tokens × channels), in float64, median over 32 "
    "images, mean over seeds."
)


def depths(found: Results, columns: tuple[str, ...]) -> list[dict]:
    """log₁₀ condition numbers in the first, middle and last layer, before and after training."""
    rows = []
    for name, runs in found.items():
        for when in ("first", "last"):
            row = {"contender": name, "training": {"first": "before", "last": "after"}[when]}
            for column in columns:
                values = average(runs, f"{column}_{when}")
                picked = values[[0, len(values) // 2, -1]]
                row[f"log₁₀ κ {NAMES[column]}"] = " / ".join(f"{x:.2f}" for x in picked)
            rows.append(row)
    return rows


NAMES = {
    "tokens": "of normalised tokens",
    "grayed": "entering attention",
    "output": "of attention's output",
    "after": "after its skip",
}


def skips(found: Results, setup, out: Place) -> None:
    rows, lines = shared(found), depths(found, ("tokens", "output", "after"))
    text = [about(setup, found, out), table(list(rows[0]), rows, markdown=True)]
    text += [
        CONDITION + " First / middle / last layer. Where there is no skip, attention's output goes on alone.",
        table(list(lines[0]), lines, markdown=True),
    ]
    page("attention_skips", "Skip connections removed from a small ViT", text, out)
    drawn, axes = figure(3, 5)
    dots(axes[0], found, "test accuracy, %")
    for axis, column, title in zip(
        axes[1:], ("output", "after"), ("attention's output", "tokens after attention"), strict=True
    ):
        for i, (name, runs) in enumerate(found.items()):
            for when, style in (("first", ":"), ("last", "-")):
                values = average(runs, f"{column}_{when}")
                label = name if when == "last" else None
                axis.plot(
                    range(1, len(values) + 1), values, style, color=COLOURS[i % len(COLOURS)], marker=".", label=label
                )
        axis.set(xlabel="layer", ylabel="log₁₀ condition number", title=f"{title}; dotted: untrained")
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False, fontsize=7)
    save(drawn, "attention_skips", out)


def graying(found: Results, setup, out: Place) -> None:
    rows, lines = shared(found), depths(found, ("tokens", "grayed", "output"))
    for row, runs in zip(rows, found.values(), strict=True):
        shares = [float(r["graying_share"]) for r in runs if r["graying_share"]]
        row["share of a step"] = f"{100 * np.mean(shares):.0f} %" if shares else ""
    text = [about(setup, found, out), table(list(rows[0]), rows, markdown=True)]
    text.append(
        "Share of a step: processor time of nine training steps with graying and nine without, in turns in the same "
        "run, medians; cosine transforms in every layer were by FFT then, which takes nearly twice as long. "
        + CONDITION
        + " First / middle / last layer."
    )
    page("attention_graying", "Token graying in a small ViT", [*text, table(list(lines[0]), lines, markdown=True)], out)
    # A kind and ε has one colour wherever it grays.
    kinds = list(dict.fromkeys(name.split(",")[0] for name in found))
    colours = [COLOURS[kinds.index(name.split(",")[0]) % len(COLOURS)] for name in found]
    drawn, axes = figure(3, 5.2)
    dots(axes[0], found, "test accuracy, %", colours=colours)
    for i, (name, runs) in enumerate(found.items()):
        values = average(runs, "grayed_last")
        style = "o--" if "," in name else "o-"
        axes[1].plot(range(1, len(values) + 1), values, style, color=colours[i], ms=4, label=name)
        shares = [100 * float(r["graying_share"]) for r in runs if r["graying_share"]]
        if shares:
            axes[2].barh(name, np.mean(shares), color=colours[i])
    axes[1].set(xlabel="layer", ylabel="log₁₀ condition number", title="entering attention, after training")
    axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[2].set(xlabel="% of a training step", title="cost")
    axes[2].invert_yaxis()
    for axis in axes[1:]:
        axis.grid(alpha=0.3)
    save(drawn, "attention_graying", out)


FACTORED = {
    "feedforward": ("Sine low-rank feed-forward layers in a small ViT", "Both matrices of each feed-forward layer are"),
    "linears": (
        "Sine low rank in every linear layer of a small ViT",
        "All six matrices of each layer (queries, keys, values, projection, both of the feed-forward layer) are",
    ),
}
NARROWER = {
    "feedforward": "has dense feed-forward layers so much narrower that it has",
    "linears": "is a dense network with so many fewer channels that it has",
}


def factored(name: str, found: Results, setup, out: Place) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = shared(found)
    for row in rows:
        rank = row["contender"].split()[-1]
        rival = f"dense {rank}"
        row["against narrower dense"] = (
            against(found[row["contender"]], found[rival]) if rank.isdigit() and rival in found else ""
        )
    title, which = FACTORED[name]
    text = [about(setup, found, out), table(list(rows[0]), rows, markdown=True)]
    text.append(
        f"{which} of the rank that is named; `dense k` {NARROWER[name]} as many parameters as rank k, or a few less. "
        "The sine's phase is 2.5 throughout."
    )
    if name == "linears":
        n, d = setup.tokens, setup.dim // setup.heads
        own = {contender: rows for contender, rows in found.items() if not contender.startswith("dense")}
        lines, inside = norms(own, n, d, "softmax"), depths(own, ("tokens", "output"))
        text += [NORMS, table(list(lines[0]), lines, markdown=True), CONDITION + " First / middle / last layer."]
        text.append(table(list(inside[0]), inside, markdown=True))
    page(f"attention_{name}", title, text, out)
    drawn, axes = figure(1, 6)
    for kind, colour, mark in (
        ("sine", "#b5482a", "o"),
        ("low rank", "#1f6f8b", "s"),
        ("dense", "#6a6a6a", "^"),
        ("softmax", "#111111", "*"),
    ):
        own = [rows for contender, rows in found.items() if contender == kind or contender.rpartition(" ")[0] == kind]
        means = [mean_error([100 * float(r["test"]) for r in rows]) for rows in own]
        x = [int(rows[0]["params"]) for rows in own]
        label = {"softmax": "dense, full width", "dense": "narrower dense"}.get(kind, kind)
        axes[0].errorbar(
            x, [m for m, _ in means], [e for _, e in means], color=colour, marker=mark, capsize=3, label=label
        )
    axes[0].set(xlabel="parameters of the whole network", ylabel="test accuracy, %", xscale="log")
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda numbers, _: f"{numbers:,.0f}"))
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].grid(alpha=0.3)
    axes[0].legend(frameon=False)
    save(drawn, f"attention_{name}", out)


def shapes(found: Results, settings: dict, out: Place) -> None:
    n, d = settings["tokens"], settings["dim"] // settings["heads"]
    rows = [{("test IoU" if k == "test %" else k): v for k, v in row.items()} for row in shared(found)]
    lines = norms(found, n, d)
    text = ", ".join(f"{k} {v}" for k, v in settings.items() if k != "path")
    about = (
        f"The shape transformer, small and briefly trained on {settings['path']}: {text}. Both learning rates of the\n"
        "scene times 0.5, 1 or 2, chosen with the first seed by the mean IoU (in percent) of one half of the held-out\n"
        "shapes; `rate` is the factor, `test IoU` of the other half. ± is the standard error over "
        f"{max(map(len, found.values()))} seeds of weights and\nscans; shapes are the same. "
        f"{describe_machine()['cpu']}, one thread. All runs: attention_shapes.csv."
    )
    page(
        "attention_shapes",
        "Attention by softmax, x and x³ in the shape transformer",
        [about, table(list(rows[0]), rows, markdown=True), NORMS, table(list(lines[0]), lines, markdown=True)],
        out,
    )
    draw_norms("attention_shapes", "IoU of held-out shapes, %", found, n, d, out)


REPORTS = {"activations": activations, "skips": skips, "graying": graying, "shapes": shapes} | {
    name: partial(factored, name) for name in FACTORED
}
