"""Teach Stable Diffusion one subject from a few pictures (DreamBooth), by an adapter on the attention of its UNet.

    python scripts/adapters/text_to_image.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --data my_dog \\
        --prompt "a photo of sks dog" --class-prompt "a photo of a dog" --prior 100

The loss is that of denoising the subject's pictures under --prompt, plus --prior-weight times that of the class's under
--class-prompt (Ruiz et al., CVPR 2023), so that the class is not forgotten; the class's pictures are those of
--class-data, or --prior of them that the model itself draws first. The score is the denoising loss of the subject's
pictures, at noises and times that are the same before, after and packed. --samples N draws the subject N times each.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from adapting import DTYPES, Task, add_options, batches, checkpoint, run
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.files import atomic_path

STABLE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
FIXED = 4  # noises and times a picture that the score takes


def make(options: argparse.Namespace) -> Task:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    subject, others = _listed(Path(options.data)), None
    if options.class_data:
        others = _listed(Path(options.class_data))
    elif options.prior and not options.class_prompt:
        raise SinefieldError("--prior draws pictures of the class; give its --class-prompt")
    parts: dict[str, Any] = {}
    kinds = {
        "tokenizer": CLIPTokenizer,
        "text_encoder": CLIPTextModel,
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
    }
    for part, kind in kinds.items():
        dtype = (
            {} if part == "tokenizer" else {"dtype" if part == "text_encoder" else "torch_dtype": DTYPES[options.dtype]}
        )
        parts[part] = checkpoint(kind.from_pretrained, options.model, STABLE, subfolder=part, **dtype)
        if part != "tokenizer":
            parts[part] = parts[part].to(options.device).requires_grad_(False).eval()
    scheduler = checkpoint(DDPMScheduler.from_pretrained, options.model, STABLE, subfolder="scheduler")
    unet, vae = parts["unet"], parts["vae"]
    size = options.size or unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)

    if others is None and options.prior:
        drawn = draw(parts, scheduler, options, options.class_prompt, options.prior, size)
    else:
        drawn = [_opened(path, size) for path in others or []]
    latents = _encoded(vae, [_opened(path, size) for path in subject], options.device)
    prior = _encoded(vae, drawn, options.device) if drawn else None
    words = _words(parts, [options.prompt] + ([options.class_prompt or ""] if drawn else []), options.device)

    def denoising(clean: Tensor, word: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        noisy = scheduler.add_noise(clean, noise, times)
        seen = unet(noisy.to(unet.dtype), times, word.expand(len(clean), -1, -1)).sample.float()
        kind = scheduler.config.prediction_type
        return F.mse_loss(seen, scheduler.get_velocity(clean, noise, times) if kind == "v_prediction" else noise)

    def chance(generator: torch.Generator, clean: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
        return noise.to(clean.device), times.to(clean.device)

    generator = torch.Generator().manual_seed(options.seed)
    next_subject = batches(len(latents), options.batch, options.seed)
    next_prior = batches(len(prior), options.batch, options.seed + 1) if prior is not None else None

    def loss(_: None) -> Tensor:
        clean = latents[next_subject()]
        total = denoising(clean, words[:1], *chance(generator, clean))
        if prior is not None:
            clean = prior[next_prior()]
            total = total + options.prior_weight * denoising(clean, words[1:], *chance(generator, clean))
        return total

    def score() -> float:
        fixed = torch.Generator().manual_seed(options.seed + 2)
        repeated = [latents[i : i + 1].expand(FIXED, -1, -1, -1) for i in range(len(latents))]
        return sum(float(denoising(part, words[:1], *chance(fixed, part))) for part in repeated) / len(repeated)

    def show(stage: str) -> None:
        if options.samples:
            pictures = draw(parts, scheduler, options, options.prompt, options.samples, size)
            with atomic_path(Path(options.out) / f"{stage}.png", options.overwrite) as path:
                Image.fromarray(np.concatenate([np.asarray(p) for p in pictures], 1)).save(path)

    note = {"pictures": len(latents), "prior": len(drawn), "size": size}
    metric = "denoising loss of the subject"
    return Task(unet, options.targets, lambda: None, loss, score, metric, False, (), note, show)


def draw(parts: dict[str, Any], scheduler: Any, options: Any, prompt: str, count: int, size: int) -> list[Image.Image]:
    """Pictures of the model as it is now, the same noise each time."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        **parts,
        scheduler=DDIMScheduler.from_config(scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=None, leave=False, desc=prompt[:30])
    generator = torch.Generator().manual_seed(options.seed)
    pictures: list[Image.Image] = []
    while len(pictures) < count:
        number = min(options.batch, count - len(pictures))
        settings = {"num_images_per_prompt": number, "num_inference_steps": options.draw_steps, "generator": generator}
        pictures += pipeline(prompt, height=size, width=size, **settings).images
    return pictures


@torch.no_grad()
def _encoded(vae: Any, pictures: list[Image.Image], device: str) -> Tensor:
    """Latents (n, channels, height, width), scaled as the UNet takes them."""
    found = []
    for picture in pictures:
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].to(device, vae.dtype) / 127.5 - 1
        found.append(vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor)
    return torch.cat(found)


@torch.no_grad()
def _words(parts: dict[str, Any], prompts: list[str], device: str) -> Tensor:
    tokenizer = parts["tokenizer"]
    tokens = tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return parts["text_encoder"](tokens.input_ids.to(device))[0]


def _listed(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise SinefieldError(f"{folder}: no folder of pictures; give one with a few PNG or JPEG files")
    return found


def _opened(path: Path, size: int) -> Image.Image:
    """The middle square at the model's size."""
    try:
        with Image.open(path) as picture:
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.convert("RGB").crop((left, top, left + side, top + side))
            return square.resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError) as error:
        raise SinefieldError(f"{path}: is no picture, or damaged; take it out") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_options(parser, STABLE, ("to_q", "to_k", "to_v", "to_out.0"))
    parser.set_defaults(batch=1)
    add = parser.add_argument
    add("--data", required=True, help="folder of the subject's pictures")
    add("--prompt", required=True, help='names the subject by a rare word: "a photo of sks dog"')
    add("--class-prompt", help='the same without it: "a photo of a dog"')
    add("--class-data", help="folder of pictures of the class; without it the model draws them")
    add("--prior", type=int, default=0, help="how many it draws, 0 for no prior loss (%(default)s)")
    add("--prior-weight", type=float, default=1.0)
    add("--size", type=int, help="of pictures in pixels; the model's own without it")
    add("--samples", type=int, default=0, help="pictures drawn before, after and packed (%(default)s)")
    add("--draw-steps", type=int, default=30, help="of the sampler (%(default)s)")
    return run(parser, make, argv)


if __name__ == "__main__":
    sys.exit(main())
