"""scripts/adapters: each pipeline from checkpoint to packed adapter, on tiny models of the same architectures."""

import importlib
import json
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sinefield.adapters import adapted_layers, load_adapter, restore

transformers = pytest.importorskip("transformers", reason="transformers is absent; pip install 'sinefield[adapters]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LETTERS = string.ascii_lowercase + string.digits + ".,:"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import their neighbours; nothing is looked for on a network."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts" / "adapters")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(script, arguments, capsys):
    code = importlib.import_module(script).main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def reported(script, arguments, capsys):
    code, out, err = run(script, [*arguments, "--json"], capsys)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def check(report, out, gain):
    """Files as the report says, packing smaller than float32, and by how much the score must have improved."""
    sign = 1 if report["better"] == "higher" else -1
    assert sign * (report["after"] - report["before"]) >= gain
    assert sign * (report["packed"] - report["before"]) > 0.5 * sign * (report["after"] - report["before"])
    assert report["bytes"] == (out / "adapter.sine").stat().st_size < 0.8 * report["float_bytes"]
    targets = load_adapter(out / "adapter.sine")
    assert len(targets) == report["layers"]
    assert report["trainable"] == sum(t.numel() for target in targets.values() for t in target.tensors().values())
    assert {target.spec.kind for target in targets.values()} == {report["kind"]}
    assert json.loads((out / "report.json").read_text()) == report


def save_tokenizer(kind, folder, specials, length, ends=("",)):
    """One that knows characters and no words."""
    symbols = ["Ġ", *LETTERS]
    vocab = {token: i for i, token in enumerate([*specials, *(s + end for end in ends for s in symbols)])}
    kind(vocab=vocab, merges=[], model_max_length=length).save_pretrained(folder)
    return len(vocab)


def save_roberta_like_tokenizer(folder):
    return save_tokenizer(transformers.RobertaTokenizer, folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], 32)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    size = save_roberta_like_tokenizer(folder)
    sizes = {"vocab_size": size, "num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, **sizes, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


FAST = ["--steps", 40, "--lr", 0.01, "--omega", 30, "--batch", 8]


@pytest.mark.parametrize("kind", ["sine", "dora"])
def test_causal(llama, tmp_path, capsys, kind):
    data = tmp_path / "text.txt"
    data.write_text("the cat sat on the mat. " * 60)
    out = tmp_path / "out"
    arguments = ["causal", "--model", llama, "--data", data, "--length", 24, "--out", out, *FAST]
    report = reported("language", [*arguments, "--kind", kind, "--rank", 4, "--bits", 6], capsys)
    check(report, out, gain=0.3)
    assert report["layers"] == 10 and report["train"] == 54 and report["test"] == 6
    assert abs(report["before"] - np.log(44)) < 0.5  # an untrained model knows nothing
    # What the file holds is what was scored: the same loss by the library alone.
    model = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    restore(model, out / "adapter.sine")
    assert len(adapted_layers(model)) == 10
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    held = tokenizer(data.read_text(), add_special_tokens=False)["input_ids"][54 * 24 :]
    rows = torch.tensor(held).reshape(6, 24)
    with torch.no_grad():
        assert abs(float(model(input_ids=rows, labels=rows).loss) - report["packed"]) < 1e-4
    code, _, err = run("language", arguments, capsys)
    assert code == 2 and "adapter.safetensors: exists already" in err.splitlines()[-1]


def test_completions(llama, tmp_path, capsys):
    """Of prompts nothing is learned: a random completion cannot be foretold, a constant one can."""
    language = importlib.import_module("language")
    rows = [{"prompt": f"{a} and {b}:", "completion": "yes"} for a in "abcdef" for b in "uvwxyz"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    tokens, labels = language._pieces(tmp_path / "rows.jsonl", tokenizer, 32)[0]
    assert tokenizer.decode(tokens) == "<s>a and u:yes</s>"
    assert labels == [language.IGNORED] * 9 + tokens[-4:]
    tokens, labels = language._pieces(tmp_path / "rows.jsonl", tokenizer, 6)[0]
    assert tokenizer.decode(tokens) == "u:yes</s>" and labels[:2] == [language.IGNORED] * 2
    out = tmp_path / "out"
    arguments = ["causal", "--model", llama, "--data", tmp_path / "rows.jsonl", "--out", out, *FAST, "--kind", "lora"]
    check(reported("language", [*arguments, "--bits", 6], capsys), out, gain=0.4)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roberta")
    size = save_roberta_like_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": size, "max_position_embeddings": 40, "initializer_range": 0.3}
    config = transformers.RobertaConfig(**SMALL, **sizes, pad_token_id=1)
    transformers.RobertaModel(config).save_pretrained(folder)
    return folder


def test_classify(roberta, tmp_path, capsys):
    """Which letters a word is made of; from a .jsonl and a .csv alike."""
    chance = np.random.default_rng(0)
    letters = {"first": list("abcdefgh"), "second": list("stuvwxyz")}
    labels = ["first", "second"] * 60
    rows = [{"text": "".join(chance.choice(letters[label], 9)), "label": label} for label in labels]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:100])))
    (tmp_path / "test.csv").write_text("label,text\n" + "\n".join(f"{r['label']},{r['text']}" for r in rows[100:]))
    out = tmp_path / "out"
    arguments = ["classify", "--model", roberta, "--data", tmp_path / "rows.jsonl", "--test", tmp_path / "test.csv"]
    report = reported("language", [*arguments, "--out", out, *FAST, "--kind", "sine-dora", "--bits", 6], capsys)
    assert report["labels"] == ["first", "second"] and report["layers"] == 4 and report["test"] == 20
    assert report["after"] >= 0.9 and report["packed"] >= 0.9
    head = 32 * 32 + 32 + 2 * 32 + 2
    assert report["head_bytes"] == 4 * head and (out / "head.safetensors").stat().st_size > 4 * head
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    code, _, err = run("language", ["classify", "--model", roberta, "--data", tmp_path / "bad.jsonl"], capsys)
    assert code == 2 and err.endswith("row 1 has no label; each needs text and label\n")


def paint(folder, count, side=20):
    """Classes of one colour each."""
    chance = np.random.default_rng(0)
    for name, colour in (("red", (220, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 220))):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(colour) + chance.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_clip(tmp_path, capsys):
    model = tmp_path / "clip"
    specials = ["<|startoftext|>", "<|endoftext|>"]
    size = save_tokenizer(transformers.CLIPTokenizer, model, specials, 32, ("", "</w>"))
    text = {**SMALL, "vocab_size": size, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**SMALL, "image_size": 16, "patch_size": 8}, projection_dim=16
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(model)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPImageProcessorPil(**sizes).save_pretrained(model)
    paint(tmp_path / "pictures", 8)
    out = tmp_path / "out"
    arguments = ["clip", "--model", model, "--data", tmp_path / "pictures", "--shots", 4, "--out", out, *FAST]
    report = reported("vision", [*arguments, "--bits", 6], capsys)
    check(report, out, gain=0.2)
    assert report["classes"] == ["blue", "green", "red"] and report["train"] == report["test"] == 12
    assert report["layers"] == 6 and report["head_bytes"] == 0  # the image encoder's alone
    assert all(name.startswith("vision_model.") for name in load_adapter(out / "adapter.sine"))


def test_vit(tmp_path, capsys):
    model = tmp_path / "vit"
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8, num_labels=1000)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(model)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(model)
    paint(tmp_path / "pictures", 4)
    out = tmp_path / "out"
    arguments = ["vit", "--model", model, "--data", tmp_path / "pictures", "--shots", 2, "--out", out, *FAST]
    report = reported("vision", [*arguments, "--kind", "lora"], capsys)
    assert report["layers"] == 6 and report["head_bytes"] == 4 * 3 * 33
    assert report["after"] == report["packed"] == 1
    code, _, err = run("vision", [*arguments, "--shots", 4, "--overwrite"], capsys)
    assert code == 2 and err.endswith("no picture is left to score on; lower --shots or give --test\n")


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """Stable Diffusion's parts, each the smallest that its class can be."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is absent; pip install 'sinefield[adapters]'")
    folder = tmp_path_factory.mktemp("stable")
    specials = ["<|startoftext|>", "<|endoftext|>"]
    size = save_tokenizer(transformers.CLIPTokenizer, folder / "tokenizer", specials, 32, ("", "</w>"))
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(
        **text, vocab_size=size, max_position_embeddings=32, bos_token_id=0, eos_token_id=1
    )
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.slow
def test_text_to_image(stable, tmp_path, capsys):
    paint(tmp_path, 2)
    out = tmp_path / "out"
    arguments = ["--model", stable, "--data", tmp_path / "red", "--prompt", "a sks dog", "--out", out, *FAST]
    arguments += ["--batch", 2, "--rank", 4, "--bits", 6, "--class-prompt", "a dog"]
    report = reported("text_to_image", [*arguments, "--prior", 2, "--samples", 2, "--draw-steps", 2], capsys)
    check(report, out, gain=0.0)
    assert report["pictures"] == report["prior"] == 2 and report["size"] == 16
    drawn = {stage: np.asarray(Image.open(out / f"{stage}.png")) for stage in ("before", "after", "packed")}
    assert all(picture.shape == (16, 32, 3) for picture in drawn.values())
    assert not np.array_equal(drawn["before"], drawn["after"])
    code, _, err = run("text_to_image", [*arguments[:6], "--prior", 2, "--out", tmp_path / "b"], capsys)
    assert code == 2 and err.endswith("give its --class-prompt\n")


@pytest.mark.parametrize(
    ("script", "arguments", "public"),
    [
        ("language", ["causal", "--data", "x.txt"], "HuggingFaceTB/SmolLM2-135M"),
        ("language", ["classify", "--data", "x.csv"], "FacebookAI/roberta-base"),
        ("vision", ["clip", "--data", "x"], "openai/clip-vit-base-patch32"),
        ("vision", ["vit", "--data", "x"], "google/vit-base-patch16-224-in21k"),
        ("text_to_image", ["--prompt", "a dog", "--data", "x/red"], "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ],
)
def test_a_missing_checkpoint_is_one_line(script, arguments, public, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if script == "text_to_image":
        pytest.importorskip("diffusers")
    (tmp_path / "x.txt").write_text("text")
    paint(tmp_path / "x", 2)
    (tmp_path / "empty").mkdir()
    shots = ["--shots", 1] if script == "vision" else []
    for model in (tmp_path / "absent", "./absent", "nobody/no-such-model", tmp_path / "empty"):
        code, out, err = run(script, [*arguments, *shots, "--model", model], capsys)
        line = err.splitlines()[-1]
        assert code == 2 and not out and str(model) in line and f"hf download {public} --local-dir" in line
        assert "Traceback" not in err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--bits", 9], "--bits 9: 1 to 8"),
        (["--rank", 0], "rank is 0"),
        (["--rank", 40], "rank 40 does not fit"),
        (["--targets", "query"], "'query' matches no layer"),
        (["--data", "nothing.txt"], "nothing.txt: no such data"),
    ],
)
def test_bad_options(llama, tmp_path, capsys, extra, line):
    (tmp_path / "text.txt").write_text("a b c " * 100)
    arguments = ["causal", "--model", llama, "--data", tmp_path / "text.txt", "--length", 16, "--out", tmp_path / "out"]
    code, out, err = run("language", [*arguments, *extra], capsys)
    assert code == 2 and not out and line in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
