// A radiance field as voxels that a graphics processor draws: density as a logarithm, and colour as a mean and its
// slopes along the three axes of the direction, eight bits each.
import { fail } from "./bytes.js";
import { POINTS } from "./plain.js";

export const LEAST = -10, MOST = 6; // logarithms of a step's optical depth
const FAINT = Math.exp(-6.5);
const AXES = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]];

/** Whether a field can be baked: one box in the world. */
export const canBake = ({ kind, settings }) => kind === "radiance" && settings.space === "box" && settings.grid_levels === 1;

/**
 * Bakes in steps, which a generator's `next` takes; returns {low, size, shape, textures}: four arrays of RGBA bytes, x
 * fastest. `n` voxels along the longest side of what is occupied.
 */
export function* bake(field, n) {
  if (!canBake(field)) fail("only a radiance field in one box can be baked");
  const { drawer } = field, { box, sides, s, step } = drawer, cells = drawer.cells, g = s.grid;
  const from = [g, g, g], to = [0, 0, 0];
  cells.forEach((bit, i) => {
    if (bit) [Math.floor(i / g / g), Math.floor(i / g) % g, i % g].forEach((v, a) => {
      from[a] = Math.min(from[a], v);
      to[a] = Math.max(to[a], v + 1);
    });
  });
  if (to[0] === 0) from.fill(0), to.fill(g);
  const low = from.map((v, a) => box[a] + (v / g) * sides[a]), size = from.map((v, a) => ((to[a] - v) / g) * sides[a]);
  const voxel = Math.max(...size) / n, shape = size.map((side) => Math.max(Math.round(side / voxel), 1)), [nx, ny, nz] = shape;
  const count = nx * ny * nz, textures = [0, 128, 128, 128].map((v) => new Uint8Array(4 * count).fill(v)), has = new Uint8Array(count);
  const f = drawer.trunk.engine.floats, ids = new Int32Array(POINTS), units = new Float64Array(POINTS);
  let held = 0;
  const flush = () => {
    const out = drawer.look(), densities = Float64Array.from(ids.subarray(0, held), (_, p) => drawer.sigma(f[out + p], units[p]) * step);
    const seen = [];
    for (let p = 0; p < held; p++) {
      const level = Math.round(((Math.log(densities[p] + 1e-30) - LEAST) / (MOST - LEAST)) * 255);
      textures[0][4 * ids[p] + 3] = Math.min(Math.max(level, 0), 255);
      if (densities[p] > FAINT) seen.push(p);
    }
    if (seen.length) {
      const rgb = AXES.map((axis) => {
        const wave = drawer.harmonics(axis);
        for (let p = 0; p < held; p++) drawer.ask(p, out, wave);
        const at = drawer.head.run();
        return f.slice(at, at + 3 * POINTS).map((v) => 1 / (1 + Math.exp(-v)));
      });
      for (const p of seen) {
        for (let c = 0; c < 3; c++) {
          const found = rgb.map((values) => values[c * POINTS + p]), at = 4 * ids[p] + c;
          textures[0][at] = Math.round((found.reduce((a, b) => a + b) / 6) * 255);
          for (let a = 0; a < 3; a++) textures[1 + a][at] = Math.round(((found[2 * a] - found[2 * a + 1]) / 2 + 0.5) * 255);
        }
        has[ids[p]] = 1;
      }
    }
    held = 0;
  };
  for (let z = 0, i = 0; z < nz; z++) {
    for (let y = 0; y < ny; y++) {
      for (let x = 0; x < nx; x++, i++) {
        const px = low[0] + ((x + 0.5) / nx) * size[0], py = low[1] + ((y + 0.5) / ny) * size[1], pz = low[2] + ((z + 0.5) / nz) * size[2];
        if (!drawer.occupied(px, py, pz)) continue;
        units[held] = drawer.put(held, px, py, pz);
        ids[held++] = i;
        if (held === POINTS) flush();
      }
    }
    yield z / nz;
  }
  if (held) flush();
  // Twice, so that diagonal neighbours get one too.
  for (const round of [1, 2]) spread(textures, has, round, shape);
  return { low, size, shape, textures, step };
}

/** Gives voxels without a colour that of their neighbours, so that interpolation finds no black beside a surface. */
const spread = (textures, has, round, [nx, ny, nz]) => {
  const steps = [1, -1, nx, -nx, nx * ny, -nx * ny], given = [];
  for (let z = 1; z < nz - 1; z++) for (let y = 1; y < ny - 1; y++) for (let x = 1, i = (z * ny + y) * nx + 1; x < nx - 1; x++, i++) {
    if (has[i]) continue;
    const near = steps.filter((by) => has[i + by]);
    if (!near.length) continue;
    const mean = (t, c) => near.reduce((sum, by) => sum + textures[t][4 * (i + by) + c], 0) / near.length;
    given.push([i, [0, 1, 2, 3].map((t) => [0, 1, 2].map((c) => mean(t, c)))]);
  }
  for (const [i, colours] of given) {
    has[i] = round;
    colours.forEach((rgb, t) => textures[t].set(rgb, 4 * i));
  }
};

/** The shader's part that goes along a ray through the voxels: premultiplied colour and opacity, and depth. */
export const MARCH = /* glsl */ `
uniform highp sampler3D v0, v1, v2, v3;
uniform vec3 low, size, boxLow, boxHigh;
uniform float stepSize;
vec4 march(vec3 o, vec3 d, out float depth) {
  vec3 a = (boxLow - o) / d, b = (boxHigh - o) / d, n = min(a, b), f = max(a, b);
  vec3 a2 = (low - o) / d, b2 = (low + size - o) / d, n2 = min(a2, b2), f2 = max(a2, b2);
  float first = max(max(n.x, max(n.y, n.z)), 0.0), end = min(f2.x, min(f2.y, f2.z));
  float near = max(max(n2.x, max(n2.y, n2.z)), first), light = 1.0;
  vec3 rgb = vec3(0.0);
  depth = 0.0;
  // The lattice is the exact picture's; what lies before the voxels is passed.
  float k = max(floor((near - first) / stepSize - 0.5), 0.0);
  for (int i = 0; i < 4096; i++, k += 1.0) {
    float t = first + (k + 0.5) * stepSize;
    if (t >= end || light < 0.001) break;
    if (t < near) continue;
    vec3 p = (o + t * d - low) / size;
    vec4 c = textureLod(v0, p, 0.0);
    if (c.a < 0.004) continue;
    float w = light * (1.0 - exp(-exp(mix(${LEAST}.0, ${MOST}.0, c.a))));
    vec3 slope = d.x * (textureLod(v1, p, 0.0).rgb - 0.50196) + d.y * (textureLod(v2, p, 0.0).rgb - 0.50196) + d.z * (textureLod(v3, p, 0.0).rgb - 0.50196);
    rgb += w * clamp(c.rgb + slope, 0.0, 1.0);
    depth += w * t;
    light -= w;
  }
  depth /= max(1.0 - light, 1e-4);
  return vec4(rgb, 1.0 - light);
}`;
