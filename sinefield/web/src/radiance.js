// Light: densities and colours, and rays through the occupied cells. docs/format.md, "Mathematics", is the text.
import { POINTS } from "./plain.js";
import { rayOf, sizeOf } from "./camera.js";

const LEAST_LIGHT = 1e-3, EACH = 4, BLOCK = 4;
/** How far along a ray it is to the wall of a block, in units of the ray's length. */
const leave = (block, place, by) => (by ? Math.max(((block + (by > 0)) * BLOCK - place) / by, 0) : Infinity);
const logistic = (x) => 1 / (1 + Math.exp(-x));

/** What the polynomials of harmonics are multiplied by; a shader has these in its head's weights. */
export const NORMS = /* @__PURE__ */ [8, 24, 24, 24, 120, 120, 10, 120, 30, 35, 840, 21, 14, 21, 210, 35].map((v) => Math.sqrt(v / Math.PI / 32));

/** The sixteen harmonics of a unit direction. */
const harmonics = ([x, y, z]) => {
  const xx = x * x, yy = y * y, zz = z * z;
  return [
    1, -y, z, -x, x * y, -y * z, 3 * zz - 1, -x * z, xx - yy, -y * (3 * xx - yy), x * y * z, -y * (5 * zz - 1),
    z * (5 * zz - 3), -x * (5 * zz - 1), z * (xx - yy), -x * (xx - 3 * yy),
  ].map((v, k) => v * NORMS[k]);
};

export class RadianceField {
  constructor(packed, nets) {
    const { settings: s, box, frame, cells } = packed;
    Object.assign(this, { s, box, frame, cells, trunk: nets.trunk, head: nets.head });
    const levels = !globalThis.LEAN && s.space === "box" ? 2 ** (s.grid_levels - 1) : 1;
    this.middle = [0, 1, 2].map((a) => (box[a] + box[a + 3]) / 2);
    this.sides = [0, 1, 2].map((a) => box[a + 3] - box[a]);
    const longest = Math.max(...this.sides);
    this.half = (longest / 2) * levels;
    this.step = longest / s.steps;
    this.near = !globalThis.LEAN && frame && s.space !== "ndc" ? frame[14] : 0;
    if (!globalThis.LEAN) {
      this.reaches = this.sides.map((side) => side / 2 / this.half || 1e-9);
      this.nested = s.grid_levels > 1 || s.cone_angle > 0;
      // The smallest ball around all that is drawn.
      this.radius = (Math.hypot(...this.sides) / 2) * 2 ** (s.grid_levels - 1);
    }
    if (globalThis.LEAN || !this.nested) {
      const n = s.grid, m = Math.ceil(n / BLOCK), coarse = (this.coarse = new Uint8Array(m ** 3));
      for (let x = 0, i = 0; x < n; x++) for (let y = 0; y < n; y++) for (let z = 0; z < n; z++) {
        if (cells[i++]) coarse[(((x / BLOCK) | 0) * m + ((y / BLOCK) | 0)) * m + ((z / BLOCK) | 0)] = 1;
      }
    }
  }

  /** Point i of the batch, of the field's space, into the trunk's input; returns the length of a unit there. */
  put(i, x, y, z) {
    const { half, middle: m, trunk } = this, f = trunk.engine.floats, at = trunk.input / 4 + i;
    let a = (x - m[0]) / half, b = (y - m[1]) / half, c = (z - m[2]) / half, unit = half;
    if (!globalThis.LEAN && this.s.space === "contracted") {
      const e = this.reaches, reach = Math.max(1, Math.abs(a / e[0]), Math.abs(b / e[1]), Math.abs(c / e[2]));
      const by = (2 - 1 / reach) / reach / 2;
      a *= by; b *= by; c *= by;
      unit *= reach;
    }
    f[at] = a;
    f[at + POINTS] = b;
    f[at + 2 * POINTS] = c;
    return unit;
  }

  /** The trunk's outputs of the batch: index of output 0's row. Signed distances get their sphere added. */
  look() {
    const { trunk } = this, f = trunk.engine.floats, at = trunk.input / 4;
    const far = !globalThis.LEAN && this.s.density === "distance" && Float64Array.from({ length: POINTS }, (_, i) => Math.hypot(f[at + i], f[at + POINTS + i], f[at + 2 * POINTS + i]) - 0.5);
    trunk.encode();
    const out = trunk.run();
    if (far) for (let i = 0; i < POINTS; i++) f[out + i] += far[i];
    return out;
  }

  /** Density of an output of the trunk where a unit is so long. */
  sigma(value, unit) {
    const { beta, density } = this.s;
    if (!globalThis.LEAN && density === "distance") return logistic(-value / beta) / (beta * unit);
    return Math.exp(Math.min(value, 12)) / unit;
  }

  /** Features and direction of point i to the head's input. */
  ask(i, out, wave) {
    const { head, s } = this, f = head.engine.floats, at = head.input / 4 + i;
    for (let k = 0; k < s.features; k++) f[at + k * POINTS] = f[out + (k + 1) * POINTS + i];
    for (let k = 0; k < 16; k++) f[at + (s.features + k) * POINTS] = wave[k];
  }

  // < asked by scripts, never by pages
  /** In batches: `each(i, n, out, units)` after points i … i + n − 1 went through the trunk. */
  batches(points, each) {
    const units = new Float64Array(POINTS);
    for (let i = 0; i < points.length / 3; i += POINTS) {
      const n = Math.min(POINTS, points.length / 3 - i);
      for (let p = 0; p < n; p++) units[p] = this.put(p, points[3 * (i + p)], points[3 * (i + p) + 1], points[3 * (i + p) + 2]);
      each(i, n, this.look(), units);
    }
  }

  density(points) {
    const found = new Float32Array(points.length / 3), f = this.trunk.engine.floats;
    this.batches(points, (i, n, out, units) => {
      for (let p = 0; p < n; p++) found[i + p] = this.sigma(f[out + p], units[p]);
    });
    return found;
  }

  colour(points, directions) {
    const found = new Float32Array(points.length), f = this.trunk.engine.floats;
    this.batches(points, (i, n, out) => {
      for (let p = 0; p < n; p++) {
        this.ask(p, out, harmonics(directions.subarray(3 * (i + p), 3 * (i + p) + 3)));
      }
      const rgb = this.head.run();
      for (let p = 0; p < n; p++) for (let c = 0; c < 3; c++) found[3 * (i + p) + c] = logistic(f[rgb + c * POINTS + p]);
    });
    return found;
  }
  // >

  /** A world ray as the one that is marched: {o, d, t, end}, null where it meets nothing. */
  ray(o, d) {
    const ray = { o, d, world: d, k: 0, light: 1, rgb: [0, 0, 0], far: 0 };
    if (!globalThis.LEAN && this.s.space === "ndc") {
      const entered = toNdc(this.frame, o, d);
      if (!entered) return null;
      [ray.o, ray.d] = entered;
    }
    if (!globalThis.LEAN && this.nested) {
      ray.t = this.near;
      const away = Math.hypot(...[0, 1, 2].map((a) => ray.o[a] - this.middle[a]));
      ray.end = away + this.radius;
      return ray;
    }
    let t = this.near, end = Infinity;
    for (let a = 0; a < 3; a++) {
      const low = (this.box[a] - ray.o[a]) / ray.d[a], high = (this.box[a + 3] - ray.o[a]) / ray.d[a];
      if (ray.d[a] === 0) {
        if (ray.o[a] < this.box[a] || ray.o[a] > this.box[a + 3]) return null;
        continue;
      }
      t = Math.max(t, Math.min(low, high));
      end = Math.min(end, Math.max(low, high));
    }
    ray.t = ray.first = t;
    ray.end = end;
    return t < end ? ray : null;
  }

  /** The ray's next sample, its middle as ray.middle and its length as ray.length; false where there is none. */
  next(ray) {
    return globalThis.LEAN || !this.nested ? this.through(ray) : along(this, ray);
  }

  /** Through one grid: blocks of cells of which none is occupied are passed in one go. */
  through(ray) {
    const { o, d, first, end } = ray, { step, cells, coarse, box, sides } = this, n = this.s.grid, m = Math.ceil(n / BLOCK);
    const sx = n / sides[0] || 0, sy = n / sides[1] || 0, sz = n / sides[2] || 0;
    const ox = (o[0] - box[0]) * sx, oy = (o[1] - box[1]) * sy, oz = (o[2] - box[2]) * sz;
    const dx = d[0] * sx, dy = d[1] * sy, dz = d[2] * sz;
    for (;;) {
      const t = first + (ray.k + 0.5) * step;
      if (t >= end) return false;
      const px = ox + t * dx, py = oy + t * dy, pz = oz + t * dz;
      const x = px <= 0 ? 0 : px >= n ? n - 1 : px | 0, y = py <= 0 ? 0 : py >= n ? n - 1 : py | 0, z = pz <= 0 ? 0 : pz >= n ? n - 1 : pz | 0;
      const bx = (x / BLOCK) | 0, by = (y / BLOCK) | 0, bz = (z / BLOCK) | 0;
      if (coarse[(bx * m + by) * m + bz]) {
        ray.k++;
        if (!cells[(x * n + y) * n + z]) continue;
        ray.middle = t;
        ray.length = step;
        return true;
      }
      const out = Math.min(leave(bx, px, dx), leave(by, py, dy), leave(bz, pz, dz));
      // To the last position that is surely within the block, and one on.
      ray.k += out < Infinity ? Math.max(Math.floor(out / step - 1e-6), 0) + 1 : 1;
    }
  }

  /** One sample behind those before it: density or distance, and colour. */
  add(ray, value, unit, middle, length, rgb, p) {
    const f = this.head.engine.floats;
    const colour = [0, 1, 2].map((c) => logistic(f[rgb + c * POINTS + p]));
    let depth, at = middle;
    if (!globalThis.LEAN && this.s.density === "distance") {
      const now = value / this.s.beta, last = ray.before, bend = (x) => (x < -30 ? x : -Math.log1p(Math.exp(-x)));
      ray.before = { d: now, colour: [...colour], middle };
      if (!last) depth = -bend(now);
      else if (now >= last.d) depth = 0;
      else {
        depth = bend(last.d) - bend(now);
        const back = Math.min(Math.max(-now / (last.d - now), 0), 1);
        colour.forEach((c, i) => (colour[i] = c + back * (last.colour[i] - c)));
        at += back * (last.middle - middle);
      }
    } else depth = this.sigma(value, unit) * length;
    const weight = ray.light * (1 - Math.exp(-depth));
    for (let c = 0; c < 3; c++) ray.rgb[c] += weight * colour[c];
    if (!globalThis.PAGE) ray.far += weight * at;
    ray.light *= Math.exp(-depth);
  }

  /** Rays `first` … `first + count − 1` of `make(i)`; `done(i, ray)` with what each saw, null where it met nothing. */
  cast(first, count, make, done) {
    const f = this.trunk.engine.floats, units = new Float64Array(POINTS), lengths = new Float64Array(POINTS);
    const middles = new Float64Array(POINTS), owners = Array(POINTS);
    let active = [], next = first;
    const last = first + count;
    while (active.length || next < last) {
      while (active.length < POINTS / EACH && next < last) {
        const index = next++, ray = make(index);
        if (ray && this.next(ray)) {
          ray.index = index;
          ray.wave = harmonics(ray.world);
          active.push(ray);
        }
        else done(index, ray);
      }
      let n = 0;
      const going = [];
      for (const ray of active) {
        ray.more = true;
        for (let e = 0; e < EACH && ray.more; e++, n++) {
          const { o, d, middle } = ray;
          units[n] = this.put(n, o[0] + middle * d[0], o[1] + middle * d[1], o[2] + middle * d[2]);
          middles[n] = middle;
          lengths[n] = ray.length;
          owners[n] = ray;
          ray.more = this.next(ray);
        }
      }
      if (!n) break;
      const out = this.look();
      for (let p = 0; p < n; p++) this.ask(p, out, owners[p].wave);
      const values = f.slice(out, out + n), rgb = this.head.run();
      for (let p = 0; p < n; p++) {
        if (owners[p].light >= LEAST_LIGHT) this.add(owners[p], values[p], units[p], middles[p], lengths[p], rgb, p);
      }
      for (const ray of active) {
        if (ray.more && ray.light >= LEAST_LIGHT) going.push(ray);
        else done(ray.index, ray);
      }
      active = going;
    }
  }

  /** Rows `first` … `last − 1` of a camera's picture: premultiplied colour and opacity, and depth, by pixel. */
  rows(camera, first, last, out) {
    const { width } = globalThis.PAGE ? camera : sizeOf(camera);
    const make = (i) => {
      const [o, d] = rayOf(camera, (i % width) + 0.5, Math.floor(i / width) + 0.5);
      return this.ray(o, d);
    };
    this.cast(first * width, (last - first) * width, make, (i, ray) => {
      const opacity = ray ? 1 - ray.light : 0;
      for (let c = 0; c < 3; c++) out.colours[3 * i + c] = ray ? ray.rgb[c] : 0;
      out.opacities[i] = opacity;
      if (globalThis.PAGE) return; // it draws no depths
      const depth = opacity > 0 ? ray.far / opacity : Infinity;
      out.depths[i] = !globalThis.LEAN && this.s.space === "ndc" && opacity > 0 ? worldDepth(this.frame, camera, i, depth) : depth;
    });
  }
}

/** Whether a point of the field's space lies in an occupied cell. */
const occupied = ({ s, middle: m, sides, cells }, x, y, z) => {
  const n = s.grid;
  let a = (2 * (x - m[0])) / sides[0], b = (2 * (y - m[1])) / sides[1], c = (2 * (z - m[2])) / sides[2], level = 0;
  for (const far = Math.max(Math.abs(a), Math.abs(b), Math.abs(c)); far > 2 ** level; level++) if (level === s.grid_levels - 1) return false;
  const by = n / 2 ** (level + 1), h = n / 2;
  a = Math.min(Math.max(Math.floor(a * by + h), 0), n - 1);
  b = Math.min(Math.max(Math.floor(b * by + h), 0), n - 1);
  c = Math.min(Math.max(Math.floor(c * by + h), 0), n - 1);
  return cells[((level * n + a) * n + b) * n + c] === 1;
};

/** The next sample through nested grids, or with growing steps. */
const along = (field, ray) => {
  const { o, d } = ray;
  for (;;) {
    const length = Math.max(field.step, field.s.cone_angle * ray.t), middle = ray.t + length / 2;
    if (middle >= ray.end) return false;
    ray.t += length;
    if (occupied(field, o[0] + middle * d[0], o[1] + middle * d[1], o[2] + middle * d[2])) {
      ray.middle = middle;
      ray.length = length;
      return true;
    }
  }
};

/** A depth of the marched ray as the world's, along pixel i's ray. */
const worldDepth = (m, camera, i, t) => {
  const { width } = sizeOf(camera), [o, d] = rayOf(camera, (i % width) + 0.5, Math.floor(i / width) + 0.5);
  const [start, slope] = toNdc(m, o, d), z = 2 / Math.min(start[2] + t * slope[2] - 1, -1e-6);
  const ahead = (v, w) => m[8] * v[0] + m[9] * v[1] + m[10] * v[2] + w;
  return (z - ahead(o, m[11])) / ahead(d, 0);
};

/** A world ray in NDC, of unit length there; null where it looks backwards. */
const toNdc = (m, origin, direction) => {
  const turn = (v, by) => [0, 4, 8].map((r) => m[r] * v[0] + m[r + 1] * v[1] + m[r + 2] * v[2] + by * m[r + 3]);
  const o = turn(origin, 1), d = turn(direction, 0), [fx, fy] = [m[12], m[13]];
  if (!(d[2] < -1e-6 * Math.hypot(...d))) return null;
  const by = Math.max(0, -(1 + o[2]) / d[2]);
  for (let a = 0; a < 3; a++) o[a] += by * d[a];
  const start = [(-fx * o[0]) / o[2], (-fy * o[1]) / o[2], 1 + 2 / o[2]];
  const slope = [-fx * (d[0] / d[2] - o[0] / o[2]), -fy * (d[1] / d[2] - o[1] / o[2]), -2 / o[2]];
  const length = Math.hypot(...slope);
  return [start, slope.map((v) => v / length)];
};
