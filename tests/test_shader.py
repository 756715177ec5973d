"""Shaders: GLSL run in headless Chromium, WGSL run by wgpu, each held against the field in Python."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from browser import Browser, wait_for

from sinefield.commands.cli import main
from sinefield.config import make_field_config
from sinefield.errors import SinefieldError
from sinefield.export.code_shader import GLSL, WGSL, shader
from sinefield.fields.base import kind_named, kind_of
from sinefield.store.fields import load_field

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to run GLSL in")
SETTINGS = [
    {"activation": "gaussian", "skips": [1], "width": 18},
    {"activation": "sine", "omega0": 6.0, "frequencies": 0},
    {"activation": "softplus", "depth": 1},
    {"activation": "relu", "weights": "dense", "width": 9},
]

GLSL_PAGE = """
const gl = document.createElement('canvas').getContext('webgl2');
function ask(source, points) {
  gl.getExtension('EXT_color_buffer_float');
  const n = points.length / 4, program = gl.createProgram();
  const vertex = `#version 300 es
    void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0, 1); }`;
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, source]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) return {error: gl.getShaderInfoLog(shader)};
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return {error: gl.getProgramInfoLog(program)};
  gl.useProgram(program);
  const textures = [new Float32Array(points), null].map((content, unit) => {
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER])
      gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, n, 1, 0, gl.RGBA, gl.FLOAT, content);
    return texture;
  });
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, textures[1], 0);
  gl.viewport(0, 0, n, 1);
  gl.bindVertexArray(gl.createVertexArray());
  gl.drawArrays(gl.TRIANGLES, 0, 3);
  const out = new Float32Array(4 * n);
  gl.readPixels(0, 0, n, 1, gl.RGBA, gl.FLOAT, out);
  return {out: Array.from(out, x => String(x)), error: gl.getError()};
}
"""
FRAGMENT = """#version 300 es
precision highp float; precision highp int;
uniform sampler2D asked; out vec4 answer;
const vec3 iResolution = vec3(64.0, 64.0, 1.0); const float iTime = 1.0;
{text}
void main() {{
  vec4 p = texelFetch(asked, ivec2(gl_FragCoord.xy), 0);
  if (p.w > 0.0) mainImage(answer, p.xy); else answer = vec4({name}_sdf(p.xyz), {name}_normal(p.xyz));
}}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    browser = Browser(CHROMIUM, tmp_path_factory.mktemp("chromium"))
    browser.open("data:text/html,<p>")
    wait_for(lambda: browser.ask("document.readyState") == "complete")
    browser.ask(GLSL_PAGE + "0")
    yield browser
    browser.close()


def by_glsl(page, text, name, points, picture=False):
    """What a fragment shader says of points: distance and normal; or of pixels: the colour."""
    rows = np.concatenate([points, np.full((len(points), 1), float(picture))], axis=1)
    source = FRAGMENT.format(text=text, name=name)
    found = page.ask(f"ask({json.dumps(source)}, {json.dumps(rows.astype(np.float32).ravel().tolist())})")
    assert not found["error"], found["error"]
    return np.array([float(x) for x in found["out"]]).reshape(-1, 4)


WGSL_PROGRAM = """
import sys, numpy as np, wgpu
from wgpu.utils.compute import compute_with_buffers
try:
    wgpu.gpu.request_adapter_sync().request_device_sync()
except Exception as error:
    sys.exit(f"no adapter: {error}")
code, rows = open(sys.argv[1]).read(), np.load(sys.argv[2])
found = compute_with_buffers({0: rows}, {1: (len(rows) * 4, "f")}, code, n=len(rows))
np.save(sys.argv[3], np.asarray(found[1]).reshape(-1, 4))
"""


def by_wgsl(text, name, points, folder):
    """The same by a compute shader, in a process of its own: drivers and triton bring two LLVMs."""
    pytest.importorskip("wgpu", reason="wgpu, which runs WGSL, is not installed")
    code = f"""{text}
@group(0) @binding(0) var<storage, read> asked: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> answers: array<vec4f>;
@compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3u) {{
    let p = asked[id.x].xyz;
    answers[id.x] = vec4f({name}_sdf(p), {name}_normal(p));
}}
"""
    rows = np.concatenate([points, np.zeros((len(points), 1))], axis=1).astype(np.float32)
    (folder / "f.wgsl").write_text(code)
    np.save(folder / "rows.npy", rows)
    paths = [str(folder / file) for file in ("f.wgsl", "rows.npy", "found.npy")]
    done = subprocess.run([sys.executable, "-c", WGSL_PROGRAM, *paths], capture_output=True, text=True)
    if "no adapter" in done.stderr:
        pytest.skip("no adapter that runs WGSL")
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder / "found.npy")


def random_field(settings):
    asked = {"weights": "sine", "rank": 2, "width": 12, "depth": 3, "frequencies": 2, "sigma": 0.5}
    config = make_field_config("shape", asked | {"represents": "distance"} | settings, "the test")
    torch.manual_seed(0)
    placed = {"centre": torch.tensor([1.0, 2, 3]).double(), "scale": torch.tensor(0.7).double()}
    placed["aabb"] = torch.tensor([0.0, 1, 2, 2, 3, 4]).double()
    field = kind_named("shape").blank(config, placed)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return field


def held(ask, field, language):
    """A shader's distances and normals against the definition."""
    network = kind_of(field).distance_network(field)
    low, high = network.low, network.high
    points = (low + high) / 2 + np.random.default_rng(0).uniform(-1, 1, (300, 3)) * (high - low)
    points = points.astype(np.float32).astype(np.float64)
    found = ask(shader(network, "it", "a test", language), "it", points)
    size = float((high - low).max())
    truth = network(points)
    assert np.abs(found[:, 0] - truth).max() < 1e-4 * size
    step = 1e-3 * size
    slope = np.stack([(network(points + o) - network(points - o)) for o in np.eye(3) * step], axis=1)
    steep = np.linalg.norm(slope, axis=1)
    good = steep > 0.05 * step  # flat places have no direction
    cosine = (found[:, 1:] * slope).sum(axis=1)[good] / steep[good]
    assert np.quantile(cosine, 0.1) > 0.95


@needs_browser
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_glsl_is_the_field(page, settings):
    held(lambda *given: by_glsl(page, *given), random_field(settings), GLSL)


@needs_browser
def test_the_examples_glsl_and_its_picture(page, tmp_path):
    out = tmp_path / "knot.glsl"
    assert main(["code", "example:knot", str(out)]) == 0
    held(lambda *given: by_glsl(page, *given), load_field("example:knot")[0], GLSL)
    y, x = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5, indexing="ij")
    pixels = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    picture = by_glsl(page, out.read_text(), "knot", pixels, picture=True).reshape(64, 64, 4)
    paper = np.abs(picture[..., :3] - [0.93, 0.95, 0.97]).max(axis=2) < 1e-3
    assert paper[[0, 0, -1, -1], [0, -1, 0, -1]].all() and 0.1 < (~paper).mean() < 0.8
    # The camera sees the knot where it is: most of the rays that hit, hit what a finer march hits.
    assert picture[~paper][:, :3].std() > 0.05


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_wgsl_is_the_field(settings, tmp_path):
    held(lambda *given: by_wgsl(*given, tmp_path), random_field(settings), WGSL)


@pytest.mark.slow
def test_the_examples_wgsl(tmp_path):
    held(lambda *given: by_wgsl(*given, tmp_path), load_field("example:knot")[0], WGSL)


def test_too_large_a_network_is_one_line(tmp_path):
    network = kind_of(field := random_field({"width": 300, "weights": "dense"})).distance_network(field)
    with pytest.raises(SinefieldError, match=r"at most 131,072; write OUT\.h or OUT\.npz"):
        shader(network, "it", "a test", GLSL)
