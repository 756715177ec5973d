// A field's settings, and the names and shapes of the tensors that they fix.
import { fail } from "./bytes.js";

/** Settings by their number; a page's script has the names of its kind alone. */
export const NAMES = (globalThis.SETTINGS ?? "width depth skips weights rank omega phase bound activation sigma omega0 frequencies represents band " +
  "loss features head_width head_depth grid steps encoding levels log2_table coarsest finest space grid_levels " +
  "cone_angle density beta points dim tokens heads blocks expand attention graying epsilon skip_attention " +
  "skip_feedforward colours colour_width colour_depth colour_frequencies vertices faces digits subdivisions").split(" ");
const CHOICES = {
  weights: "sine lowrank dense",
  activation: "relu leaky_relu gaussian sine softplus",
  encoding: globalThis.LEAN ? "" : "frequency hash",
};
if (!globalThis.NO_SHAPE) Object.assign(CHOICES, { represents: globalThis.LEAN ? "" : "distance occupancy sheet", loss: "tanh l1 bce mse asinh", colours: "no yes" });
if (!globalThis.NO_RADIANCE) Object.assign(CHOICES, { space: globalThis.LEAN ? "" : "box ndc contracted", density: globalThis.LEAN ? "" : "free distance" });
const DECIMALS = new Set(["omega", "phase", "bound", "sigma", "omega0", "band", "cone_angle", "beta"]);
const NETWORK = {
  skips: [], weights: "sine", omega: null, phase: 2.5, bound: 1, omega0: 30,
  ...(!globalThis.LEAN && { sigma: 0.1, encoding: "frequency", levels: 12, log2_table: 15, coarsest: 16, finest: 512 }),
};
export const BASE = {};
if (!globalThis.NO_SHAPE) {
  BASE.shape = {
    ...NETWORK, width: 64, depth: 3, rank: 10, activation: "leaky_relu", frequencies: 5,
    ...(!globalThis.LEAN && { represents: "distance" }), band: 0.03, loss: "tanh", colours: "no", colour_width: 24, colour_depth: 2, colour_frequencies: 4,
  };
}
if (!globalThis.NO_RADIANCE) {
  BASE.radiance = {
    ...NETWORK, width: 64, depth: 4, rank: 16, phase: 0.5, bound: 4, activation: "relu", frequencies: 8,
    features: 15, head_width: 64, head_depth: 1, grid: 64, steps: 128, grid_levels: 1,
    ...(!globalThis.LEAN && { space: "box", cone_angle: 0, density: "free", beta: 0.003 }),
  };
}
if (!globalThis.NO_IMAGE) {
  BASE.image = {
    ...NETWORK, width: 96, depth: 3, rank: 16, phase: 0.25, bound: 2, activation: "gaussian", sigma: 0.25,
    frequencies: 7,
  };
}
if (!globalThis.NO_MESH) BASE.mesh = { vertices: 0, faces: 0, digits: 8, subdivisions: 0 };
const LARGEST = 1 << 20;
const SHARED = { width: 96, depth: 3, frequencies: 5, rank: 2, band: 0.03 };

/** The settings of what a set of shapes shares, complete, from plain data. */
export const sharedIn = (given) => {
  const s = { ...SHARED, ...given }, most = { width: 1024, depth: 16, frequencies: 24, rank: 16, band: Infinity };
  for (const [name, value] of Object.entries(s)) {
    if (!(name in SHARED)) fail(`setting ${name} is unknown; a newer player may know it`);
    const whole = name === "band" || Number.isInteger(value), least = { frequencies: 0, depth: 2, band: 1e-30 }[name] ?? 1;
    if (!(whole && value >= least && value <= most[name])) fail(`its setting ${name} is ${value}, which this player cannot draw`);
  }
  return s;
};

/** Settings of the shape that a code makes. */
export const codedSettings = ({ width, depth, frequencies, band }) => ({ ...BASE.shape, width, depth, frequencies, band, weights: "dense" });

/** What a code has, in its order: names and how many numbers each. */
export const groupsOf = ({ width, depth, rank }) => {
  const found = [];
  for (let i = 0; i < depth; i++) {
    found.push([`t${i}`, width], [`s${i}`, width]);
    if (i) found.push([`u${i}`, width * rank], [`v${i}`, width * rank]);
  }
  return [...found, ["row", width], ["bias", 1]];
};

const sharedTensors = (s) => {
  const m = groupsOf(s).reduce((sum, [, n]) => sum + n, 0);
  const own = { directions: [s.depth - 1, s.rank, s.width], gains: [m], slopes: [m] };
  return [...Object.entries(own).map(([name, shape]) => ({ name, shape, octaves: [] })),
    ...tensorsOf("shape", codedSettings(s)).map((tensor) => ({ ...tensor, octaves: [] }))];
};

const valueOf = (name, reader) => {
  if (CHOICES[name]) return reader.choice(CHOICES[name].split(" "));
  if (DECIMALS.has(name)) return reader.number();
  if (name !== "skips") return reader.varint(LARGEST);
  return Array.from({ length: reader.varint(64) }, () => reader.varint(LARGEST));
};

/** The settings of a kind in `BASE`, complete. */
export const settingsIn = (kind, reader) => {
  const settings = { ...BASE[kind] };
  for (let n = reader.varint(reader.left); n; n--) {
    const number = reader.byte();
    if (!number && reader.version > 1) fail(`setting ${reader.name()} is unknown; a newer player may know it`);
    const name = NAMES[(number & 127) - 1];
    if (!(name in settings)) fail(`setting ${number & 127} is unknown; a newer player may know it`);
    settings[name] = number & 128 ? null : valueOf(name, reader);
  }
  return globalThis.PAGE ? settings : check(settings); // Python has looked at the file of a page
};

/** Settings that no network can have are refused. */
const check = (s) => {
  const least = { width: 1, depth: 1, rank: 1, grid: 1, grid_levels: 1, steps: 1, levels: 1, coarsest: 1, finest: 1,
    head_width: 1, head_depth: 1, colour_width: 1, colour_depth: 1, frequencies: 0, colour_frequencies: 0, features: 0,
    log2_table: 0, faces: 1, digits: 1 };
  const most = { depth: 64, frequencies: 24, colour_frequencies: 24, log2_table: 24, levels: 32, head_depth: 64,
    colour_depth: 64, grid: 512, grid_levels: 16, finest: 1 << 16, coarsest: 1 << 16,
    faces: 1 << 18, digits: 15, subdivisions: 2, vertices: 3 * s.faces };
  for (const [name, value] of Object.entries(s)) {
    const lost = value === null && name !== "omega" && name !== "phase";
    const small = name in least && !(value >= least[name]);
    const odd = DECIMALS.has(name) && value !== null && !Number.isFinite(value);
    const flat = ["bound", "sigma", "omega0", "band", "beta"].includes(name) && !(value > 0);
    const words = CHOICES[name] && !CHOICES[name].split(" ").includes(value);
    if (lost || small || odd || flat || words || value > most[name] || s.cone_angle < 0) {
      fail(`its setting ${name} is ${value}, which this player cannot draw`);
    }
  }
  if (s.skips?.some((i) => i < 1 || i >= s.depth)) fail(`its skips are ${s.skips}, of ${s.depth} layers`);
  if (s.space && s.density === "distance" && (s.space !== "box" || s.grid_levels > 1 || s.cone_angle)) {
    fail("its density is a distance outside a box, which cannot be");
  }
  return s;
};

/** Cells along a side, entries and first entry of each level of a hash grid. */
export const hashLevels = (s) => {
  const growth = (s.finest / s.coarsest) ** (1 / Math.max(s.levels - 1, 1));
  let first = 0;
  return Array.from({ length: s.levels }, (_, level) => {
    const n = Math.floor(s.coarsest * growth ** level + 1e-6);
    if (!(n >= 1)) fail("a level of its hash grid has no cells");
    const size = Math.min((n + 1) ** 3, 2 ** s.log2_table);
    first += size;
    return { n, size, first: first - size };
  });
};

/** What a network is: its inputs, its layers, and what its matrices are stored as. */
export const networksOf = (kind, s) => {
  const d = kind === "image" ? 2 : 3, hash = !globalThis.LEAN && s.encoding === "hash";
  if (hash && (kind === "image" || s.frequencies)) fail("its hash encoding has frequencies, which cannot be");
  const inputs = hash ? 2 * s.levels : d * (1 + 2 * s.frequencies);
  const own = { d, inputs, octaves: hash ? 0 : s.frequencies };
  if (!globalThis.NO_RADIANCE && kind === "radiance") {
    const head = { ...s, width: s.head_width, depth: s.head_depth, weights: "dense", activation: "relu", skips: [] };
    return {
      trunk: { ...s, ...own, outputs: 1 + s.features },
      head: { ...head, inputs: s.features + 16, outputs: 3, octaves: 0 },
    };
  }
  const outputs = kind === "image" ? 3 : s.represents === "sheet" ? 2 : 1;
  const networks = { network: { ...s, ...own, outputs } };
  if (!globalThis.NO_SHAPE && s.colours === "yes") {
    networks.colour_network = {
      ...s, d, width: s.colour_width, depth: s.colour_depth, weights: "dense", skips: [], outputs: 3,
      inputs: d * (1 + 2 * s.colour_frequencies), octaves: s.colour_frequencies, encoding: "frequency",
    };
  }
  return networks;
};

/** Columns of layer i. */
export const columnsOf = (net, i) => (i ? net.width + (net.skips.includes(i) ? net.inputs : 0) : net.inputs);

/** Names of all tensors, in their order, with shape and octaves of columns; none of a mesh, whose numbers are its code. */
export const tensorsOf = (kind, s) => {
  if (!globalThis.NO_EDITS && kind === "shared") return sharedTensors(s);
  const found = [];
  const add = (name, shape, net) => found.push({ name, shape, octaves: net ? octavesOf(net) : [] });
  if (!globalThis.LEAN && s.encoding === "hash") add("encoding.table", [hashLevels(s).reduce((sum, level) => sum + level.size, 0), 2]);
  for (const [name, net] of globalThis.NO_NETWORKS || kind === "mesh" || (!globalThis.NO_EDITS && kind === "code") ? [] : Object.entries(networksOf(kind, s))) {
    for (let i = 0; i <= net.depth; i++) {
      const rows = i < net.depth ? net.width : net.outputs, columns = columnsOf(net, i), at = `${name}.weights.${i}.`;
      if (!i || i === net.depth || net.weights === "dense") {
        add(`${at}weight`, [rows, columns], i ? null : net);
      } else {
        add(`${at}u`, [rows, net.rank]);
        add(`${at}v`, [net.rank, columns]);
      }
    }
    for (let i = 0; i <= net.depth; i++) add(`${name}.biases.${i}`, [i < net.depth ? net.width : net.outputs]);
  }
  return found;
};

/** Columns of the first weight, an octave at a time; [] where it sees no frequencies. */
const octavesOf = ({ d, octaves }) => {
  if (!octaves) return [];
  const axes = (first) => Array.from({ length: d }, (_, a) => first + a);
  const found = [axes(0)];
  for (let i = 0; i < octaves; i++) found.push([...axes(d + d * i), ...axes(d + d * (octaves + i))]);
  return found;
};
