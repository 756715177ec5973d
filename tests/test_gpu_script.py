"""scripts/benchmarks/gpu.py on the CPU: what it makes of figures, and that all of it runs."""

import argparse
import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

SCRIPT = ROOT / "scripts" / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


def test_targets_and_ratios(gpu):
    history = [(1.0, 20.0), (2.0, 31.0), (3.0, 29.0), (4.0, 32.5)]
    assert gpu.crossings(history, (30, 32, 33)) == {"30": 2.0, "32": 4.0, "33": None}
    assert (gpu.ratio(2.0, 9.0, 60), gpu.ratio(2.0, None, 60), gpu.ratio(None, 9.0, 60)) == ("4.5", "> 30", "–")


def test_the_recipe_s_rate_is_torch_s(gpu):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 90, 100, 108], gamma=0.33)
    for step in range(120):
        assert gpu.falling_in_steps(step / 120, None) == pytest.approx(rule.get_last_lr()[0])
        optimizer.step()
        rule.step()


def test_a_part_that_fails_or_hangs_is_a_row(gpu, tmp_path):
    options = argparse.Namespace(data=tmp_path, downscale=2, dry=True, set=[])
    hung = gpu.run_part("hash", options, 0.2)
    failed = gpu.run_part("sine", argparse.Namespace(data=tmp_path / "none", downscale=2, dry=True, set=[]), 120)
    assert "no result within" in hung["failed"] and "none" in failed["failed"]
    backends = [{"name": "tinycudann", "works": False, "note": "absent"}, {"name": "LPIPS", "works": True, "note": ""}]
    (tmp_path / "doctor.json").write_text(json.dumps({"backends": backends}))
    suite = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="3"/></testsuites>'
    (tmp_path / "cuda_tests.xml").write_text(suite)
    found = gpu.summary({"hash": hung, "sine": failed}, gpu.found_before(tmp_path))
    rows = {row["figure"]: row["value"] for row in found}
    assert rows["hash"].startswith("FAILED") and rows["sine"].startswith("FAILED")
    assert rows["CUDA tests"] == "4 passed, 2 failed, 3 skipped" and rows["tinycudann"] == "does not work; absent"
    assert "LPIPS" not in rows and gpu.found_before(tmp_path / "none") == []


@pytest.mark.slow
def test_everything_dry(gpu, photographs, tmp_path):
    command = [sys.executable, SCRIPT, "--dry", "--data", photographs, "--downscale", "2", "--out", tmp_path]
    done = subprocess.run([*command, "--set", "sine.field.rank=3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert set(parts) == {"steps", "hash", "sine", "recipe"} and not any("failed" in part for part in parts.values())
    assert {row["step"] for row in parts["steps"]["rows"]} == {"shape", "radiance"}
    assert all(parts[name]["history"] and parts[name]["fps_float32"] > 0 for name in ("hash", "sine", "recipe"))
    for figure in ("bf16 ceiling", "Lego to 13 / 15 dB, hash", "Lego to 10 / 12 / 13 dB, sine", "recipe ÷ sine"):
        assert figure in done.stdout
