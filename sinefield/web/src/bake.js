// A radiance field as voxels that a graphics processor draws: at the nodes of a lattice the logarithm of the density and
// the features of the trunk, eight bits each, in bricks where there is matter; the head is asked in the shader.
import { fail } from "./bytes.js";
import { POINTS } from "./plain.js";
import { NORMS } from "./radiance.js";

export const CHUNK = 4096;
const LEAST = -6.5, MOST = 6; // logarithms of a step's optical depth
const FAINT = -6, BRICK = 8, SIDE = BRICK + 1, ACROSS = 28, MOST_WEIGHTS = 1024, SAMPLED = 2048, BEND = 1 / 12;

/** RGBA textures of a field's voxels: three features and the density, then four features each. */
const texturesOf = (s) => Math.ceil((s.features + 1) / 4);
/** Bytes of a node. */
export const rowOf = (s) => 4 * texturesOf(s);
/** Groups of four floats of its head. */
export const weightsOf = (s) => s.head_width * (texturesOf(s) + 5) + 1;

/** Whether a field can be baked: one box in the world, and a head that fits a shader. */
export const canBake = ({ kind, settings: s }) => kind === "radiance" &&
  (globalThis.LEAN || (s.space === "box" && s.grid_levels === 1 && !s.cone_angle)) && s.head_depth === 1 && s.features < 32 && s.grid <= 256 && weightsOf(s) <= MOST_WEIGHTS;

/** Which nodes of a lattice are needed, `n` voxels along the longest side of what is occupied. */
export const planOf = (field, n) => {
  if (!canBake(field)) fail("only a radiance field in one box, with a head of one layer, can be baked");
  if (!(n >= 4 && n <= 256)) fail(`${n} voxels a side; give 4 to 256`);
  const { drawer, settings: { grid: g } } = field, { box, sides, cells } = drawer, axes = [0, 1, 2];
  // Plain loops: a picture waits for them.
  const each = (act) => {
    for (let x = 0, i = 0; x < g; x++) for (let y = 0; y < g; y++) for (let z = 0; z < g; z++) if (cells[i++]) act(x, y, z);
  };
  const [sx, sy, sz] = axes.map(() => new Uint8Array(g));
  each((x, y, z) => (sx[x] = sy[y] = sz[z] = 1));
  const seen = [sx, sy, sz], from = seen.map((s) => Math.max(s.indexOf(1), 0)), to = seen.map((s) => s.lastIndexOf(1) + 1 || 1);
  const low = from.map((v, a) => box[a] + (v / g) * sides[a]), size = from.map((v, a) => ((to[a] - v) / g) * sides[a]);
  const voxel = Math.max(...size) / n, shape = size.map((side) => Math.max(Math.ceil(side / voxel / BRICK - 1e-6), 1));
  const dims = shape.map((count) => count * BRICK + 1), [nx, ny, nz] = dims, slots = new Int32Array(nx * ny * nz);
  // What a sample within an occupied cell is interpolated from.
  const ends = (by, round) => axes.map((a) => Int32Array.from({ length: g }, (_, i) =>
    Math.min(Math.max(round((((i + by) / g) * sides[a] + box[a] - low[a]) / voxel), 0), dims[a] - 1)));
  const [x0, y0, z0] = ends(1e-6, Math.floor), [x1, y1, z1] = ends(1 - 1e-6, Math.ceil);
  each((x, y, z) => {
    for (let w = z0[z]; w <= z1[z]; w++) for (let v = y0[y]; v <= y1[y]; v++) {
      for (let i = (w * ny + v) * nx, u = i + x0[x]; u <= i + x1[x]; u++) slots[u] = 1;
    }
  });
  const all = new Int32Array(slots.length);
  let count = 0;
  for (let i = 0; i < slots.length; i++) if (slots[i]) {
    all[count] = i;
    slots[i] = ++count;
  }
  const nodes = all.slice(0, count);
  return { low, voxel, shape, dims, slots, nodes };
};

/** `done(at, depth, i)` for each node: where the trunk's output 0 of it lies, and the logarithm of a step's optical depth. */
const asked = ({ drawer }, { low, voxel, dims: [nx, ny] }, nodes, done) => {
  const units = new Float64Array(POINTS);
  for (let first = 0; first < nodes.length; first += POINTS) {
    const n = Math.min(POINTS, nodes.length - first);
    for (let p = 0; p < n; p++) {
      const i = nodes[first + p], y = Math.floor(i / nx);
      units[p] = drawer.put(p, low[0] + (i % nx) * voxel, low[1] + (y % ny) * voxel, low[2] + Math.floor(y / ny) * voxel);
    }
    const out = drawer.look();
    for (let p = 0; p < n; p++) done(out + p, Math.log(drawer.sigma(drawer.trunk.engine.floats[out + p], units[p]) * drawer.step + 1e-30), first + p);
  }
};

/** From where to where each feature goes, by some of the nodes that are seen: {from, by}, by 255 levels. */
export const rangesOf = (field, plan) => {
  const { features } = field.settings, f = field.drawer.trunk.engine.floats, every = Math.ceil(plan.nodes.length / SAMPLED);
  const low = new Float32Array(features).fill(1e9), high = new Float32Array(features).fill(-1e9);
  asked(field, plan, plan.nodes.filter((_, k) => k % every === 0), (at, depth) => {
    for (let c = 0; c < features && depth > FAINT; c++) {
      low[c] = Math.min(low[c], f[at + (c + 1) * POINTS]);
      high[c] = Math.max(high[c], f[at + (c + 1) * POINTS]);
    }
  });
  const by = low.map((v, c) => (high[c] > v ? 255 / (1.4 * (high[c] - v)) : 1));
  return { from: low.map((v, c) => (high[c] > v ? v - 0.2 * (high[c] - v) : Math.min(v, 0))), by };
};

/** The textures' bytes of some nodes, one after another. */
export const baked = (field, plan, { from, by }, nodes) => {
  const { features } = field.settings, row = rowOf(field.settings), bytes = new Uint8ClampedArray(row * nodes.length);
  const f = field.drawer.trunk.engine.floats;
  asked(field, plan, nodes, (at, depth, i) => {
    bytes[i * row + 3] = ((depth - LEAST) / (MOST - LEAST)) * 255;
    for (let c = 0; c < features; c++) bytes[i * row + c + (c > 2)] = (f[at + (c + 1) * POINTS] - from[c]) * by[c];
  });
  return bytes;
};

/**
 * Interpolation between nodes cuts every bend, always to its hollow side. Nodes that are moved out by a twelfth of their
 * second differences give a picture whose error has the mean 0: quasi-interpolation by linear B-splines.
 */
const bent = ({ dims, slots, nodes }, bytes, row) => {
  const out = new Uint8ClampedArray(bytes.length), [nx, ny] = dims, strides = [1, nx, nx * ny], pairs = new Int32Array(6);
  for (let n = 0; n < nodes.length; n++) {
    let count = 0;
    for (let a = 0, left = nodes[n]; a < 3; a++) {
      const place = left % dims[a], before = place && slots[nodes[n] - strides[a]], after = place < dims[a] - 1 && slots[nodes[n] + strides[a]];
      left = (left - place) / dims[a];
      if (before && after) {
        pairs[count++] = (before - 1) * row;
        pairs[count++] = (after - 1) * row;
      }
    }
    for (let c = 0, i = n * row; c < row; c++, i++) {
      let bend = -count * bytes[i];
      for (let k = 0; k < count; k++) bend += bytes[pairs[k] + c];
      out[i] = bytes[i] - bend * BEND;
    }
  }
  return out;
};

/** Everything that the shader needs: bricks, textures and the head's weights, with the features' ranges in them. */
export const assembled = (field, plan, ranges, bytes) => {
  const { settings: s, drawer, params } = field, { shape: [bx, by, bz], dims: [nx, ny], slots } = plan, count = texturesOf(s);
  const bricks = new Uint16Array(bx * by * bz), held = [], words = new Uint32Array(bent(plan, bytes, 4 * count).buffer);
  for (let z = 0, b = 0; z < bz; z++) for (let y = 0; y < by; y++) for (let x = 0; x < bx; x++, b++) {
    const corner = BRICK * ((z * ny + y) * nx + x);
    let any = 0;
    for (let w = 0; w < SIDE && !any; w++) for (let v = 0; v < SIDE && !any; v++) for (let u = 0; u < SIDE; u++) any |= slots[corner + (w * ny + v) * nx + u];
    if (any) bricks[b] = held.push(corner);
  }
  const size = [ACROSS * SIDE, ACROSS * SIDE, Math.max(Math.ceil(held.length / ACROSS ** 2), 1) * SIDE], voxels = size[0] * size[1] * size[2];
  const textures = Array.from({ length: count }, () => new Uint32Array(voxels));
  held.forEach((corner, i) => {
    const at = SIDE * ((Math.floor(i / ACROSS ** 2) * size[1] + (Math.floor(i / ACROSS) % ACROSS)) * size[0] + (i % ACROSS));
    for (let w = 0; w < SIDE; w++) for (let v = 0; v < SIDE; v++) for (let u = 0; u < SIDE; u++) {
      const slot = slots[corner + (w * ny + v) * nx + u], to = at + (w * size[1] + v) * size[0] + u;
      if (slot) for (let t = 0; t < count; t++) textures[t][to] = words[(slot - 1) * count + t];
    }
  });
  return {
    ...plan, bricks, size, textures: textures.map((texture) => new Uint8Array(texture.buffer)), head: headOf(s, params, ranges, count),
    step: drawer.step, cells: flipped(drawer.cells, s.grid), grid: s.grid,
  };
};

/** Cells as textures have them, x fastest. */
const flipped = (cells, n) => {
  const out = new Uint8Array(cells.length);
  for (let x = 0, i = 0; x < n; x++) for (let y = 0; y < n; y++) for (let z = 0; z < n; z++) out[(z * n + y) * n + x] = cells[i++];
  return out;
};

/** Four floats each, a hidden unit after another: weights of the textures' channels, of the harmonics, and out with its bias. */
const headOf = ({ features, head_width: width }, params, { from, by }, count) => {
  const [w, b, out, end] = ["weights.0.weight", "biases.0", "weights.1.weight", "biases.1"].map((name) => params.get(`head.${name}`).values);
  const row = 4 * (count + 5), found = new Float32Array(width * row + 4), inputs = features + 16;
  for (let j = 0; j < width; j++) {
    let bias = b[j];
    for (let c = 0; c < features; c++) {
      const weight = w[j * inputs + c];
      found[j * row + c + (c > 2)] = (weight * 255) / by[c];
      bias += weight * from[c];
    }
    for (let k = 0; k < 16; k++) found[j * row + 4 * count + k] = w[j * inputs + features + k] * NORMS[k];
    found.set([out[j], out[width + j], out[2 * width + j], bias], j * row + 4 * count + 16);
  }
  found.set(end, width * row);
  return found;
};

/** Bakes in steps, which a generator's `next` takes; returns what `assembled` gives. */
export function* bake(field, n) {
  const plan = planOf(field, n), { nodes } = plan, ranges = rangesOf(field, plan), row = rowOf(field.settings);
  const bytes = new Uint8Array(row * nodes.length);
  for (let i = 0; i < nodes.length; i += CHUNK) {
    bytes.set(baked(field, plan, ranges, nodes.subarray(i, i + CHUNK)), row * i);
    yield i / nodes.length;
  }
  return assembled(field, plan, ranges, bytes);
}

/**
 * The shader's part that goes along a ray through the voxels: premultiplied colour and opacity, and `depth`. `weights`
 * says how it reads the head: declarations, and W(i), four floats.
 */
export const marchOf = ({ settings: s }, weights) => {
  const count = texturesOf(s), list = (text, from = 0) => Array.from({ length: count - from }, (_, t) => text.replaceAll("#", t + from)).join("");
  return /* glsl */ `
${weights}
uniform highp sampler3D ${list(", v#").slice(1)};
uniform highp usampler3D bricks, cells;
uniform vec3 low, boxLow, boxHigh;
uniform float stepSize, voxel;
${globalThis.PAGE ? "" : "float depth = 0.0;"}
vec4 march(vec3 o, vec3 d) {
  const int H = ${s.head_width}, R = ${count + 5};
  vec3 a = (boxLow - o) / d, b = (boxHigh - o) / d, n = min(a, b), f = max(a, b), rgb = vec3(0.0), colour = rgb;
  float first = max(max(n.x, max(n.y, n.z)), 0.0), end = min(f.x, min(f.y, f.z)), light = 1.0, due = 0.0;
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z, hidden[H];
  // What the hidden units have of the direction.
  vec4 w0 = vec4(1, -y, z, -x), w1 = vec4(x * y, -y * z, 3.0 * zz - 1.0, -x * z);
  vec4 w2 = vec4(xx - yy, -y * (3.0 * xx - yy), x * y * z, -y * (5.0 * zz - 1.0));
  vec4 w3 = vec4(z * (5.0 * zz - 3.0), -x * (5.0 * zz - 1.0), z * (xx - yy), -x * (xx - 3.0 * yy));
  for (int j = 0; j < H; j++) {
    int at = j * R + ${count};
    hidden[j] = dot(w0, W(at)) + dot(w1, W(at + 1)) + dot(w2, W(at + 2)) + dot(w3, W(at + 3)) + W(at + 4).w;
  }
  ivec3 shape = textureSize(bricks, 0), grid = textureSize(cells, 0);
  vec3 atlas = vec3(textureSize(v0, 0));
  // The lattice is the exact picture's.
  float k = 0.0;
  for (int i = 0; i < 4096; i++, k += 1.0) {
    float t = first + (k + 0.5) * stepSize;
    if (t >= end || light < 0.001) break;
    vec3 p = o + t * d, q = (p - low) / (voxel * ${BRICK}.0);
    ivec3 at = ivec3(floor(q)), cell = clamp(ivec3((p - boxLow) / (boxHigh - boxLow) * vec3(grid)), ivec3(0), grid - 1);
    uint brick = at != clamp(at, ivec3(0), shape - 1) ? 0u : texelFetch(bricks, at, 0).x;
    if (brick == 0u) {
      // On to the last position that is within this empty brick; what has its size lies outside of them, too.
      vec3 far = (vec3(at) + step(0.0, d) - q) / d * voxel * ${BRICK}.0;
      k += max(floor(min(far.x, min(far.y, far.z)) / stepSize - 0.001), 0.0);
      continue;
    }
    if (texelFetch(cells, cell, 0).x == 0u) continue;
    int e = int(brick) - 1;
    vec3 place = (vec3(e % ${ACROSS}, e / ${ACROSS} % ${ACROSS}, e / ${ACROSS ** 2}) * ${SIDE}.0 + (q - vec3(at)) * ${BRICK}.0 + 0.5) / atlas;
    vec4 f0 = textureLod(v0, place, 0.0);
    float w = light * (1.0 - exp(-exp(mix(${LEAST}, ${MOST}.0, f0.a))));
    if (f0.a < 0.004) continue;
    light -= w;
    ${globalThis.PAGE ? "" : "depth += w * t;"}
    due += w;
    if (due < 0.001) continue; // a colour for several faint samples
    ${list("vec4 f# = textureLod(v#, place, 0.0);", 1)}
    vec3 sum = W(H * R).xyz;
    for (int j = 0; j < H; j++) {
      float h = hidden[j]${list(" + dot(f#, W(j * R + #))")};
      sum += max(h, 0.0) * W(j * R + R - 1).xyz;
    }
    colour = 1.0 / (1.0 + exp(-sum));
    rgb += due * colour;
    due = 0.0;
  }
  rgb += due * colour;
  ${globalThis.PAGE ? "" : "depth /= max(1.0 - light, 1e-4);"}
  return vec4(rgb, 1.0 - light);
}`;
};
