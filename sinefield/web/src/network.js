// A field's networks, made ready to be asked: matrices from their factors, inputs from points.
import { fail } from "./bytes.js";
import { Engine } from "./engine.js";
import { POINTS } from "./plain.js";
import { columnsOf, hashLevels, networksOf } from "./settings.js";

const WIDEST = 4096, MOST = 1 << 22;
export const MOST_WORK = 1 << 28;
const up4 = (n) => (n + 3) & ~3;
const rowsOf = (net, i) => (i < net.depth ? net.width : net.outputs);

/** Matrix i of a network, (rows, columns) by rows. */
export const matrix = (net, params, name, i) => {
  const at = `${name}.weights.${i}.`, dense = params.get(`${at}weight`);
  if (dense) return dense.values;
  const { values: u } = params.get(`${at}u`), { values: v } = params.get(`${at}v`);
  const rows = net.width, columns = columnsOf(net, i), rank = net.rank, root = Math.sqrt(columns);
  const siren = net.activation === "sine", sine = net.weights === "sine";
  const omega = net.omega ?? 3 * root * (net.phase ?? 2.5);
  const gain = sine ? (siren ? (root * net.omega0) / 2 : root) / net.bound : 1;
  const plain = siren ? (3 * Math.SQRT2) / net.omega0 : 1;
  const out = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += u[r * rank + k] * v[k * columns + c];
      out[r * columns + c] = sine ? Math.sin(omega * sum) / gain : plain * sum;
    }
  }
  return out;
};

/** A network in an engine's memory. */
class Network {
  constructor(engine, net, params, name) {
    Object.assign(this, { engine, net, params, name, ready: false });
    this.input = engine.room(up4(net.inputs) * POINTS);
    const widest = up4(net.width) + up4(net.skips.length ? net.inputs : 0);
    this.buffers = [0, 1].map(() => engine.room(Math.max(widest, up4(net.outputs)) * POINTS));
    this.layers = Array.from({ length: net.depth + 1 }, (_, i) => {
      const n = columnsOf(net, i), m = up4(rowsOf(net, i));
      return { n, m, w: engine.room(n * m), b: engine.room(m) };
    });
  }

  /** Weights in blocks of four outputs, as the kernel takes them. */
  fill() {
    const f = this.engine.floats;
    this.layers.forEach(({ n, w, b }, i) => {
      const values = matrix(this.net, this.params, this.name, i), rows = rowsOf(this.net, i);
      for (let j = 0; j < rows; j++) {
        const at = w / 4 + (j >> 2) * 4 * n + (j & 3);
        for (let k = 0; k < n; k++) f[at + 4 * k] = values[j * n + k];
      }
      f.set(this.params.get(`${this.name}.biases.${i}`).values, b / 4);
    });
    this.ready = true;
  }

  /** Index of the first float of output 0's row, of the POINTS inputs that lie at `input`. */
  run() {
    if (!this.ready) this.fill();
    const { kernel, floats } = this.engine, { net, buffers } = this;
    let from = this.input;
    this.layers.forEach(({ n, m, w, b }, i) => {
      if (net.skips.includes(i)) floats.copyWithin(from / 4 + net.width * POINTS, this.input / 4, this.input / 4 + net.inputs * POINTS);
      const to = buffers[i & 1];
      kernel.layer(w, b, from, to, n, m);
      if (i < net.depth) this.activate(to, m * POINTS);
      from = to;
    });
    return from / 4;
  }

  activate(at, count) {
    const { kernel, floats } = this.engine, { activation, sigma, omega0 } = this.net;
    if (activation === "relu") kernel.rectify(at, count, 0);
    else if (activation === "leaky_relu") kernel.rectify(at, count, 0.01);
    else if (!globalThis.LEAN && activation === "gaussian") kernel.bell(at, count, (-0.5 * Math.LOG2E) / sigma ** 2);
    else if (activation === "sine") kernel.wave(at, at, count, omega0 / (2 * Math.PI), 0);
    else if (!globalThis.LEAN) {
      for (let i = at / 4, end = i + count; i < end; i++) {
        const z = floats[i];
        floats[i] = Math.max(z, 0) + Math.log1p(Math.exp(-100 * Math.abs(z))) / 100;
      }
    }
  }

  /** The encoding of the points whose coordinates are the first rows of `input`. */
  encode() {
    const { engine, net } = this, { kernel } = engine, row = 4 * POINTS;
    if (!globalThis.LEAN && net.encoding === "hash") return hashed(this);
    for (let i = 0; i < net.octaves; i++) {
      const at = this.input + (net.d + net.d * i) * row;
      kernel.wave(this.input, at, net.d * POINTS, 2 ** (i - 1), 0);
      kernel.wave(this.input, at + net.d * net.octaves * row, net.d * POINTS, 2 ** (i - 1), 0.25);
    }
  }
}

/** The hash grid's features, in place of the coordinates. */
const hashed = (net) => {
  const f = net.engine.floats, first = net.input / 4, levels = (net.levels ??= hashLevels(net.net));
  const table = net.params.get("encoding.table").values, u = [0, 0, 0], c = [0, 0, 0];
  for (let p = 0; p < POINTS; p++) {
    const x = [0, 1, 2].map((a) => Math.min(Math.max(f[first + a * POINTS + p] * 0.5 + 0.5, 0), 1) || 0);
    levels.forEach(({ n, size, first: start }, level) => {
      for (let a = 0; a < 3; a++) {
        u[a] = x[a] * n;
        c[a] = Math.min(Math.floor(u[a]), n - 1);
        u[a] -= c[a];
      }
      let even = 0, odd = 0;
      for (let corner = 0; corner < 8; corner++) {
        const [i, j, k] = [0, 1, 2].map((a) => c[a] + ((corner >> a) & 1));
        const weight = [0, 1, 2].reduce((w, a) => w * ((corner >> a) & 1 ? u[a] : 1 - u[a]), 1);
        const entry = size === (n + 1) ** 3 ? (i * (n + 1) + j) * (n + 1) + k
          : ((i ^ Math.imul(j, 2654435761) ^ Math.imul(k, 805459861)) & (size - 1)) >>> 0;
        even += weight * table[2 * (start + entry)];
        odd += weight * table[2 * (start + entry) + 1];
      }
      f[first + 2 * level * POINTS + p] = even;
      f[first + (2 * level + 1) * POINTS + p] = odd;
    });
  }
};

/** All networks of a field, by name, in one engine; refused where they are larger than a page can draw. */
export const networks = (kind, settings, params, plain) => {
  const engine = new Engine(), found = {};
  let work = 0, widest = 0;
  for (const [name, net] of Object.entries(networksOf(kind, settings))) {
    found[name] = new Network(engine, net, params, name);
    work += net.weights === "dense" ? 0 : net.depth * net.width * (net.width + net.inputs) * net.rank;
    widest = Math.max(widest, net.width + net.inputs);
  }
  if (engine.used > MOST || work > MOST_WORK || widest > WIDEST) fail("its networks are larger than a page can draw");
  engine.start(plain);
  return found;
};
