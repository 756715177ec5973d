// A shape: distances, colours, its surface met by rays, lit as Python's pictures are but for hollows and shadows.
import { fail } from "./bytes.js";
import { dot, rayOf, sizeOf, unit } from "./camera.js";
import { CLAY, lightOn } from "./light.js";
import { POINTS } from "./plain.js";
import { SLOPE, scan } from "./scan.js";

const MARGIN = 0.04, CELLS = 64, REFINED = 8;
const TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]];

export class ShapeField {
  constructor(packed, nets) {
    // Of an edited shape the box is another, but its field coordinates are its base's.
    const { settings: s, box, placed = box } = packed;
    Object.assign(this, { s, box, network: nets.network, painter: nets.colour_network ?? null });
    const sides = [0, 1, 2].map((a) => box[a + 3] - box[a]), longest = Math.max(...sides);
    this.middle = [0, 1, 2].map((a) => (placed[a] + placed[a + 3]) / 2);
    this.scale = 2 / (1.1 * Math.max(...[0, 1, 2].map((a) => placed[a + 3] - placed[a])));
    this.band = s.band / this.scale;
    this.sheet = !globalThis.LEAN && s.represents === "sheet";
    this.hasSlope = globalThis.LEAN || s.represents !== "occupancy";
    this.radius = Math.hypot(...sides) / 2;
    const grow = MARGIN * longest;
    this.clip = Float64Array.from(box, (v, a) => (a < 3 ? v - grow : v + grow));
  }

  /** `each(i, n, out)` after points i … i + n − 1 went through a network. */
  batches(net, points, each) {
    const f = net.engine.floats, at = net.input / 4, { middle, scale } = this;
    for (let i = 0; i < points.length / 3; i += POINTS) {
      const n = Math.min(POINTS, points.length / 3 - i);
      for (let p = 0; p < n; p++) {
        for (let a = 0; a < 3; a++) f[at + a * POINTS + p] = (points[3 * (i + p) + a] - middle[a]) * scale;
      }
      net.encode();
      each(i, n, net.run());
    }
  }

  // < asked by scripts, never by pages
  /** Signed distance, or occupancy of 0 to 1, or of a sheet the distance to it. */
  sdf(points) {
    const found = new Float32Array(points.length / 3), f = this.network.engine.floats, { s, band } = this;
    this.batches(this.network, points, (i, n, out) => {
      for (let p = 0; p < n; p++) {
        const raw = f[out + p];
        if (globalThis.LEAN) found[i + p] = raw * band;
        else if (this.sheet) found[i + p] = Math.hypot(raw, Math.max(f[out + POINTS + p], 0)) * band;
        else if (this.hasSlope) found[i + p] = raw * band;
        else found[i + p] = s.loss === "mse" ? raw : 1 / (1 + Math.exp(-raw));
      }
    });
    return found;
  }
  // >

  /** Negative inside and in the points' units where it is a distance; of a sheet its side, `beyond` its rim in `rim`. */
  signed(points, rim = null) {
    const found = new Float32Array(points.length / 3), f = this.network.engine.floats, { s, band } = this;
    const level = s.loss === "mse" ? 0.5 : 0;
    this.batches(this.network, points, (i, n, out) => {
      for (let p = 0; p < n; p++) {
        found[i + p] = globalThis.LEAN || this.hasSlope ? f[out + p] * band : level - f[out + p];
        if (!globalThis.LEAN && rim) rim[i + p] = f[out + POINTS + p] * band;
      }
    });
    return found;
  }

  /** sRGB of 0 to 1 at points on the surface. */
  colour(points) {
    if (!this.painter) fail("this shape has no colours");
    const found = new Float32Array(points.length), f = this.painter.engine.floats;
    this.batches(this.painter, points, (i, n, out) => {
      for (let p = 0; p < n; p++) {
        for (let c = 0; c < 3; c++) found[3 * (i + p) + c] = Math.min(Math.max(f[out + c * POINTS + p] + 0.5, 0), 1);
      }
    });
    return found;
  }

  /** Unit vectors out of the surface, by differences over a tetrahedron of half-side `reach`. */
  normals(points, reach) {
    const n = points.length / 3, around = new Float64Array(12 * n), found = new Float32Array(3 * n);
    for (let i = 0; i < 4 * n; i++) for (let a = 0; a < 3; a++) around[3 * i + a] = points[3 * (i >> 2) + a] + reach * TETRAHEDRON[i & 3][a];
    const values = this.signed(around);
    for (let i = 0; i < n; i++) {
      const slope = [0, 1, 2].map((a) => TETRAHEDRON.reduce((sum, corner, k) => sum + corner[a] * values[4 * i + k], 0));
      found.set(unit(slope), 3 * i);
    }
    return found;
  }

  /** Lit colours of points with normals. */
  shaded(points, normals) {
    const paint = this.painter ? this.colour(points) : null, out = new Float32Array(points.length);
    for (let i = 0; i < points.length / 3; i++) {
      const light = lightOn(normals.subarray(3 * i, 3 * i + 3));
      for (let c = 0; c < 3; c++) out[3 * i + c] = Math.min((paint ? paint[3 * i + c] : CLAY[c]) * light, 1);
    }
    return out;
  }

  /** Where rays first meet the surface: `found[i]` distances, infinite where they do not. */
  cast(origins, directions) {
    const grid = (this.grid ??= scan(this, CELLS)), { low, cell, shape } = grid, count = origins.length / 3;
    const found = new Float64Array(count).fill(Infinity), high = low.map((v, a) => v + shape[a] * cell);
    let rays = [];
    for (let i = 0; i < count; i++) {
      let t = 0, end = Infinity;
      for (let a = 0; a < 3; a++) {
        const o = origins[3 * i + a], by = directions[3 * i + a] || 1e-300, one = (low[a] - o) / by, two = (high[a] - o) / by;
        t = Math.max(t, Math.min(one, two));
        end = Math.min(end, Math.max(one, two));
      }
      if (!(t < end)) continue;
      const ray = { i, o: origins.subarray(3 * i, 3 * i + 3), d: directions.subarray(3 * i, 3 * i + 3), t, end, before: NaN, value: NaN };
      if (ahead(ray, grid)) rays.push(ray);
    }
    const met = [];
    while (rays.length) {
      rays = rays.filter((ray) => ahead(ray, grid));
      const points = new Float64Array(3 * rays.length), rim = !globalThis.LEAN && this.sheet ? new Float32Array(rays.length) : null;
      rays.forEach(({ o, d, t }, k) => points.set([o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]], 3 * k));
      const values = this.signed(points, rim), going = [];
      rays.forEach((ray, k) => {
        const v = values[k], fresh = Number.isNaN(ray.value), turned = fresh ? v <= 0 && !this.sheet : v <= 0 !== ray.value <= 0;
        if (turned && !(rim && rim[k] > 0)) {
          met.push(Object.assign(ray, { after: ray.t, last: v }));
          return;
        }
        ray.before = ray.t;
        ray.value = v;
        ray.t += globalThis.LEAN || this.hasSlope ? Math.min(Math.max(Math.abs(v) / SLOPE, cell / 3), cell) : cell / 3;
        going.push(ray);
      });
      rays = going;
    }
    this.refine(met, cell);
    for (const ray of met) found[ray.i] = ray.after;
    return found;
  }

  /** Closes in on the zeros between `before` and `after`: the secant method, an end that stays halved (Illinois). */
  refine(met, cell) {
    // First asked when already inside: the surface is within the cell before, or where the ray begins.
    const fresh = met.filter((ray) => Number.isNaN(ray.value));
    const back = Float64Array.from(fresh.flatMap((ray) => {
      ray.before = Math.max(ray.after - cell, 0);
      return [0, 1, 2].map((a) => ray.o[a] + ray.before * ray.d[a]);
    }));
    this.signed(back).forEach((v, k) => (fresh[k].value = v));
    let left = met.filter((ray) => ray.value <= 0 !== ray.last <= 0);
    for (let round = 0; round < REFINED && left.length; round++) {
      const points = new Float64Array(3 * left.length);
      left.forEach((ray, k) => {
        const t = ray.after + (ray.before - ray.after) * (ray.last / (ray.last - ray.value));
        ray.t = t >= ray.before && t <= ray.after ? t : (ray.before + ray.after) / 2;
        for (let a = 0; a < 3; a++) points[3 * k + a] = ray.o[a] + ray.t * ray.d[a];
      });
      const values = this.signed(points);
      left.forEach((ray, k) => {
        const v = values[k];
        if (v <= 0 === ray.last <= 0) {
          if (ray.side === 1) ray.value /= 2;
          Object.assign(ray, { after: ray.t, last: v, side: 1 });
        } else {
          if (ray.side === -1) ray.last /= 2;
          Object.assign(ray, { before: ray.t, value: v, side: -1 });
        }
        ray.small = Math.abs(v) < 1e-3 * cell && this.hasSlope;
        if (ray.small) ray.after = ray.t;
      });
      left = left.filter((ray) => !ray.small);
    }
  }

  rows(camera, first, last, out) {
    const { width } = sizeOf(camera), count = (last - first) * width;
    const origins = new Float64Array(3 * count), directions = new Float64Array(3 * count);
    for (let i = 0; i < count; i++) {
      const [o, d] = rayOf(camera, (i % width) + 0.5, first + Math.floor(i / width) + 0.5);
      origins.set(o, 3 * i);
      directions.set(d, 3 * i);
    }
    const found = this.cast(origins, directions), hit = [];
    found.forEach((t, i) => t < Infinity && hit.push(i));
    const points = Float64Array.from(hit.flatMap((i) => [0, 1, 2].map((a) => origins[3 * i + a] + found[i] * directions[3 * i + a])));
    const normals = this.normals(points, this.grid.cell / 16);
    if (!globalThis.LEAN && this.sheet) {
      hit.forEach((i, k) => {
        const n = normals.subarray(3 * k, 3 * k + 3);
        if (dot(n, directions.subarray(3 * i, 3 * i + 3)) > 0) n.forEach((v, a) => (n[a] = -v));
      });
    }
    const colours = this.shaded(points, normals), at = first * width;
    out.colours.fill(0, 3 * at, 3 * (at + count));
    out.opacities.fill(0, at, at + count);
    if (!globalThis.PAGE) out.depths.set(found, at);
    hit.forEach((i, k) => {
      out.opacities[at + i] = 1;
      out.colours.set(colours.subarray(3 * k, 3 * k + 3), 3 * (at + i));
    });
  }
}

/** Moves a ray on to where the surface may be; false where nothing is left of it. */
const ahead = (ray, { low, cell, shape, active, blocks, block }) => {
  const { o, d } = ray, [nx, ny, nz] = shape;
  const ox = (o[0] - low[0]) / cell, oy = (o[1] - low[1]) / cell, oz = (o[2] - low[2]) / cell;
  const within = (v, n) => (v <= 0 ? 0 : v >= n ? n - 1 : Math.floor(v));
  const wall = (at, size, place, by) => (by ? ((Math.floor(at / size) + (by > 0)) * size - place) * cell / by : Infinity);
  for (;;) {
    if (ray.t >= ray.end) return false;
    const t = ray.t / cell, px = ox + t * d[0], py = oy + t * d[1], pz = oz + t * d[2];
    const x = within(px, nx), y = within(py, ny), z = within(pz, nz);
    let size = 1;
    if (!blocks[(((x / block) | 0) * (ny / block) + ((y / block) | 0)) * (nz / block) + ((z / block) | 0)]) size = block;
    else if (active[(x * ny + y) * nz + z]) return true;
    const step = Math.min(wall(x, size, px, d[0]), wall(y, size, py, d[1]), wall(z, size, pz, d[2]));
    // A hair beyond the wall. What lies here holds no surface, so the value before it says nothing of the way.
    ray.t += Math.max(step, 0) + 1e-4 * cell;
  }
};
