"""Adapt an image encoder: CLIP's from a few pictures a class, or a ViT with a new head.

    python scripts/adapters/vision.py clip --model openai/clip-vit-base-patch32 --data flowers --shots 16
    python scripts/adapters/vision.py vit --model google/vit-base-patch16-224-in21k --data flowers --kind sine-dora

--data is a folder with a folder of pictures for each class; --shots of them, drawn by --seed, are learned from and the
others scored on, or those of --test. CLIP's classes are what its text encoder, left as it is, makes of --prompt with
the folder's name: its score before is its zero-shot accuracy. The ViT's score before is that of its new head alone.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from adapting import DTYPES, Task, add_options, batches, checkpoint, run
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sinefield.errors import SinefieldError

CLIP = "openai/clip-vit-base-patch32"
VIT = "google/vit-base-patch16-224-in21k"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
Picture = tuple[Path, int]


def clip(options: argparse.Namespace) -> Task:
    """The encoder learns to bring a picture's embedding to its class's text."""
    from transformers import AutoTokenizer, CLIPModel

    names, train, test = _pictures(options)
    model, prepare = _loaded(options, CLIPModel, CLIP)
    tokenizer = checkpoint(AutoTokenizer.from_pretrained, options.model, CLIP)
    prompts = [options.prompt.format(name.replace("_", " ")) for name in names]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt").to(options.device)
    with torch.no_grad():
        text = model.eval().text_projection(model.text_model(**tokens).pooler_output)
        text = F.normalize(text.float(), dim=-1) * model.logit_scale.float().exp()

    def logits(pixels: Tensor) -> Tensor:
        image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        return F.normalize(image.float(), dim=-1) @ text.T

    return _task(options, model, prepare, logits, names, train, test)


def vit(options: argparse.Namespace) -> Task:
    from transformers import AutoModelForImageClassification

    names, train, test = _pictures(options)
    settings = {"num_labels": len(names), "ignore_mismatched_sizes": True}
    model, prepare = _loaded(options, AutoModelForImageClassification, VIT, **settings)
    if not hasattr(model, "classifier"):
        raise SinefieldError(f"{options.model}: has no module `classifier`, as a ViT has; use such a model")
    model.classifier.float()
    kind = torch.device(options.device).type

    def logits(pixels: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            return model(pixel_values=pixels).logits.float()

    return _task(options, model, prepare, logits, names, train, test, ["classifier"])


def _loaded(options: argparse.Namespace, kind: Any, get: str, **settings: Any) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor

    processor = checkpoint(AutoImageProcessor.from_pretrained, options.model, get, backend="pil")
    dtype = DTYPES[options.dtype]
    model = checkpoint(kind.from_pretrained, options.model, get, dtype=dtype, **settings).to(options.device)

    def prepare(pictures: list[Picture]) -> tuple[Tensor, Tensor]:
        """Pixels (n, 3, height, width) as the model wants them, and classes (n,)."""
        pixels = processor(images=[_opened(path) for path, _ in pictures], return_tensors="pt")["pixel_values"]
        labels = torch.tensor([label for _, label in pictures], device=options.device)
        return pixels.to(options.device, dtype), labels

    return model, prepare


def _task(options, model, prepare, logits, names, train, test, head=()) -> Task:
    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(logits(batch[0]), batch[1])

    def score() -> float:
        right = 0
        for i in range(0, len(test), options.batch):
            pixels, labels = prepare(test[i : i + options.batch])
            right += int((logits(pixels).argmax(1) == labels).sum())
        return right / len(test)

    draw = batches(len(train), options.batch, options.seed)
    note = {"classes": names, "train": len(train), "test": len(test)}
    return Task(
        **{
            "model": model,
            "targets": options.targets,
            "draw": lambda: prepare([train[i] for i in draw()]),
            "note": note,
        },
        **{"loss": loss, "score": score, "metric": "accuracy", "higher": True, "head": head},
    )


def _pictures(options: argparse.Namespace) -> tuple[list[str], list[Picture], list[Picture]]:
    """Names of classes; pictures to learn from and to score on."""
    names, found = _listed(Path(options.data))
    chance = random.Random(options.seed)
    for pictures in found:
        chance.shuffle(pictures)
    train = [(path, i) for i, pictures in enumerate(found) for path in pictures[: options.shots]]
    test = [(path, i) for i, pictures in enumerate(found) for path in pictures[options.shots :]]
    if options.test:
        other, found = _listed(Path(options.test))
        if other != names:
            raise SinefieldError(f"{options.test}: has other classes than {options.data}; give the same folders")
        test = [(path, i) for i, pictures in enumerate(found) for path in pictures]
    if not test:
        raise SinefieldError(f"{options.data}: no picture is left to score on; lower --shots or give --test")
    return names, train, test


def _listed(folder: Path) -> tuple[list[str], list[list[Path]]]:
    classes = sorted(f for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    found = [sorted(p for p in f.iterdir() if p.suffix.lower() in SUFFIXES) for f in classes]
    if len(classes) < 2 or not all(found):
        empty = [f.name for f, pictures in zip(classes, found, strict=True) if not pictures]
        what = f"class {empty[0]} has no picture" if empty else f"{len(classes)} folders of classes"
        raise SinefieldError(
            f"{folder}: {what}; give a folder with a folder of pictures for each of two classes or more"
        )
    return [f.name for f in classes], found


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise SinefieldError(f"{path}: is no picture, or damaged; take it out") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    layers = ("q_proj", "k_proj", "v_proj")
    for name, source, targets in (("clip", CLIP, [f"vision_model.*.{part}" for part in layers]), ("vit", VIT, layers)):
        made = tasks.add_parser(name, allow_abbrev=False)
        add_options(made, source, targets)
        made.add_argument("--data", required=True, help="folder of folders of pictures")
        made.add_argument("--test", help="the same, to score on; without it, what --shots leaves")
        made.add_argument("--shots", type=int, default=16, help="pictures of a class to learn from (%(default)s)")
        made.add_argument("--prompt", default="a photo of a {}.", help="CLIP's text of a class (%(default)s)")
    return run(parser, lambda options: {"clip": clip, "vit": vit}[options.task](options), argv)


if __name__ == "__main__":
    sys.exit(main())
