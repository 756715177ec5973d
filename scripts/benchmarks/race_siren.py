"""Runs SIREN's own training on an image, from a clone of theirs, and notes when it had which score; race.py starts it.

    python scripts/benchmarks/race_siren.py CLONE OUT.jsonl IMAGE RATE STEPS EVERY

Their modules, their data and their loop, with the settings of their experiment_scripts/train_img.py but for colours.
Where there is no CUDA, `.cuda()` leaves tensors where they are; modules that they import for videos and plots, and that
are not installed, are left empty. The clock is this process's CPU time; scores are taken off it.
"""

import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def main() -> None:
    clone, out, image, rate, steps, every = sys.argv[1:]
    sys.path.insert(0, str(Path(clone).resolve()))
    for name in ("skvideo", "cmapy"):
        if find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
            sys.modules[f"{name}.io"] = ModuleType(f"{name}.io")
    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *given, **named: self  # pyright: ignore
    import dataio  # pyright: ignore[reportMissingImports]
    import loss_functions  # pyright: ignore[reportMissingImports]
    import modules  # pyright: ignore[reportMissingImports]
    import training  # pyright: ignore[reportMissingImports]

    photograph = dataio.ImageFile(image)
    side = photograph.img.size[0]
    photograph.img_channels = 3
    points = dataio.Implicit2DWrapper(photograph, sidelength=side, compute_diff="none")
    loader = torch.utils.data.DataLoader(points, shuffle=True, batch_size=1, num_workers=0)
    model = modules.SingleBVPNet(type="sine", mode="mlp", out_features=3, sidelength=(side, side))
    clock = {"begin": time.process_time(), "off": 0.0}

    def scored(model: Any, model_input: Any, gt: Any, model_output: Any, writer: Any, total_steps: int) -> None:
        now = time.process_time()
        both = model_output["model_out"], gt["img"]
        seen, truth = (((x.detach()[0] / 2 + 0.5).clamp(0, 1) * 255).round() for x in both)
        psnr = float(-10 * torch.log10(((seen - truth) / 255).square().mean()))
        row = {"cpu_seconds": now - clock["begin"] - clock["off"], "psnr": psnr, "steps": total_steps}
        row["numbers"] = sum(p.numel() for p in model.parameters())
        with Path(out).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        clock["off"] += time.process_time() - now

    with tempfile.TemporaryDirectory() as folder:
        training.train(
            model=model, train_dataloader=loader, epochs=int(steps) + 1, lr=float(rate), steps_til_summary=int(every),
            epochs_til_checkpoint=10**9, model_dir=f"{folder}/run", summary_fn=scored,
            loss_fn=lambda given, truth: loss_functions.image_mse(None, given, truth),
        )  # fmt: skip


if __name__ == "__main__":
    main()
