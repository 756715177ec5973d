// A code: what turns the network that a set of shapes shares into one of them.
import { fail } from "./bytes.js";
import { Decoder, sumsOf } from "./coder.js";
import { MOST_WORK } from "./network.js";
import { codedSettings, groupsOf } from "./settings.js";

const REACH = 127, LARGEST_SLOPE = 254;

/** A code's levels; those of the least slope come first. */
const levelsIn = (bytes, slopes) => {
  const decoder = new Decoder(bytes), levels = new Float32Array(slopes.length), places = new Map();
  slopes.forEach((slope, j) => {
    if (!(Number.isInteger(slope) && slope >= 0 && slope <= LARGEST_SLOPE)) fail("a base's tables are none; make it again");
    if (!places.has(slope)) places.set(slope, []);
    places.get(slope).push(j);
  });
  for (const slope of [...places.keys()].sort((a, b) => a - b)) {
    let at = 0;
    const own = places.get(slope);
    decoder.take(own.length, sumsOf(2 * REACH + 1, REACH, slope, 255), (symbol) => (levels[own[at++]] = symbol - REACH));
  }
  decoder.finish();
  return levels;
};

/** What a code changes, by the names of `groupsOf`. */
const changesOf = (settings, params, bytes) => {
  const gains = params.get("gains").values, levels = levelsIn(bytes, params.get("slopes").values), found = {};
  const change = levels.map((level, j) => level * Math.fround(2 ** (gains[j] / 8)));
  let at = 0;
  for (const [name, n] of groupsOf(settings)) found[name] = change.subarray(at, (at += n));
  return found;
};

/** The shape that a code makes of its base, of which `own` is the fingerprint. */
export const coded = (base, { kind, code, box, note }, own) => {
  if (kind !== "code" || base.kind !== "shared") fail("a code and what its set of shapes shares go together; give both");
  if (code.length < 4) fail("a code is cut short; copy the file again");
  if (new DataView(code.buffer, code.byteOffset).getUint32(0, true) !== own) fail("a code was made for another base; give its own");
  const { settings: s, params } = base, { width, depth, rank } = s;
  if (depth * width * width * rank > MOST_WORK) fail("a base is larger than a page can draw");
  const change = changesOf(s, params, code.subarray(4)), found = new Map(params);
  for (const name of ["directions", "gains", "slopes"]) found.delete(name);
  for (let i = 0; i <= depth; i++) {
    const weight = `network.weights.${i}.weight`, bias = `network.biases.${i}`;
    const { shape, values } = params.get(weight), w = values.slice(), b = params.get(bias).values.slice();
    if (i === depth) {
      w.forEach((v, c) => (w[c] = v + change.row[c]));
      b[0] += change.bias[0];
    } else {
      if (i) add(w, change[`u${i}`], change[`v${i}`], params.get("directions").values.subarray((i - 1) * rank * width), rank, width);
      const more = change[`s${i}`].map((v) => 1 + v), columns = shape[1];
      w.forEach((v, at) => (w[at] = v * more[Math.floor(at / columns)]));
      b.forEach((v, r) => (b[r] = more[r] * v + change[`t${i}`][r]));
    }
    if (!w.every(Number.isFinite) || !b.every(Number.isFinite)) fail("a code makes numbers that are not finite; make it again");
    found.set(weight, { shape, values: w }).set(bias, { shape: [b.length], values: b });
  }
  return { kind: "shape", settings: codedSettings(s), box, note, params: found };
};

/** w + Σ u (d + v)ᵀ over the ranks, in place; w is square. */
const add = (w, u, v, d, rank, width) => {
  const along = v.map((value, at) => value + d[at]);
  for (let r = 0; r < width; r++) {
    for (let c = 0; c < width; c++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += u[k * width + r] * along[k * width + c];
      w[r * width + c] += sum;
    }
  }
};
