// A mesh: distances to its faces, and pictures of them. It has no network.
import { fail } from "./bytes.js";
import { cross, dot, sizeOf, sub, unit } from "./camera.js";
import { CLAY, lightOn } from "./light.js";

/** Where in a pixel is looked: no two on one row or column. */
const SAMPLES = [[0.375, 0.125], [0.875, 0.375], [0.625, 0.875], [0.125, 0.625]];

/** The square of a point's distance to a triangle; all of them relative to the point. */
const squareTo = (a, b, c) => {
  const u = sub(b, a), v = sub(c, a), n = cross(u, v);
  let inside = dot(n, n) > 0, least = Infinity;
  for (const [p, q] of [[a, b], [b, c], [c, a]]) {
    const edge = sub(q, p), t = Math.min(Math.max(-dot(p, edge) / dot(edge, edge), 0), 1) || 0;
    const near = p.map((x, k) => x + t * edge[k]);
    least = Math.min(least, dot(near, near));
    inside &&= dot(cross(edge, p), n) <= 0;
  }
  return inside ? Math.min(least, dot(a, n) ** 2 / dot(n, n)) : least;
};

/** The solid angle of a triangle as seen from the origin (van Oosterom & Strackee, 1983), halved. */
const angleOf = (a, b, c) => {
  const [x, y, z] = [a, b, c].map((v) => Math.hypot(...v));
  return Math.atan2(dot(a, cross(b, c)), x * y * z + dot(a, b) * z + dot(b, c) * x + dot(c, a) * y);
};

/** The finer mesh of Loop's scheme, as docs/format.md has it: [places, faces]. */
const subdivided = (places, faces) => {
  const n = places.length / 3, edges = new Map(), found = [...places], finer = [];
  const keyOf = (a, b) => Math.min(a, b) * n + Math.max(a, b);
  for (let i = 0; i < faces.length; i++) {
    const row = i - i % 3, key = keyOf(faces[i], faces[row + (i + 1) % 3]);
    if (!edges.has(key)) edges.set(key, []);
    edges.get(key).push(faces[row + (i + 2) % 3]);
  }
  const keys = [...edges.keys()].sort((a, b) => a - b), degree = new Uint32Array(n), sharp = new Uint8Array(n);
  const ends = keys.map((key) => [Math.floor(key / n), key % n]);
  keys.forEach((key, e) => ends[e].forEach((v) => {
    degree[v]++;
    if (edges.get(key).length !== 2) sharp[v] = 1;
  }));
  const beta = (v) => (sharp[v] ? 0 : degree[v] > 3 ? 3 / (8 * degree[v]) : 3 / 16);
  for (let axis = 0; axis < 3; axis++) {
    for (let v = 0; v < n; v++) found[3 * v + axis] *= 1 - beta(v) * degree[v];
    keys.forEach((key, e) => {
      const [a, b] = ends[e], at = (v) => places[3 * v + axis], across = edges.get(key);
      found[3 * a + axis] += beta(a) * at(b);
      found[3 * b + axis] += beta(b) * at(a);
      found[3 * (n + e) + axis] = across.length === 2 ? (3 * (at(a) + at(b)) + at(across[0]) + at(across[1])) / 8 : (at(a) + at(b)) / 2;
    });
  }
  const middle = new Map(keys.map((key, e) => [key, n + e]));
  for (let k = 0; k < 4; k++) {
    for (let row = 0; row < faces.length; row += 3) {
      const on = (j) => middle.get(keyOf(faces[row + j % 3], faces[row + (j + 1) % 3]));
      finer.push(...(k < 3 ? [faces[row + k], on(k), on(k + 2)] : [on(0), on(1), on(2)]));
    }
  }
  return [Float64Array.from(found), Int32Array.from(finer)];
};

export class FacetField {
  constructor({ params, box, settings }) {
    const nodes = params.get("nodes").values, sides = [0, 1, 2].map((a) => box[a + 3] - box[a]);
    const cell = Math.max(...sides) / nodes.reduce((most, v) => Math.max(most, v), 1);
    this.places = Float64Array.from(nodes, (v, i) => box[i % 3] + v * cell);
    this.faces = params.get("faces").values;
    for (let k = settings.subdivisions; k > 0; k--) [this.places, this.faces] = subdivided(this.places, this.faces);
    this.radius = Math.hypot(...sides) / 2;
  }

  /** `each(a, b, c, i)` with the corners of face i. */
  all(each) {
    const corner = (i) => Array.from(this.places.subarray(3 * this.faces[i], 3 * this.faces[i] + 3));
    for (let i = 0; i < this.faces.length; i += 3) each(corner(i), corner(i + 1), corner(i + 2), i / 3);
  }

  // < asked by scripts, never by pages
  /** Signed distances: inside is where the faces wind around a point more than half. */
  sdf(points) {
    const n = points.length / 3, least = new Float64Array(n).fill(Infinity), wound = new Float64Array(n);
    this.all((a, b, c) => {
      for (let i = 0; i < n; i++) {
        const p = points.subarray(3 * i, 3 * i + 3), corners = [sub(a, p), sub(b, p), sub(c, p)];
        least[i] = Math.min(least[i], squareTo(...corners));
        wound[i] += angleOf(...corners);
      }
    });
    return Float32Array.from(least, (square, i) => (wound[i] > Math.PI ? -1 : 1) * Math.sqrt(square));
  }

  colour() {
    fail("a mesh has no colours");
  }
  // >

  /** {positions, normals, colours, indices}: three vertices a face, with its normal. */
  triangles() {
    const size = 3 * this.faces.length, positions = new Float32Array(size), normals = new Float32Array(size);
    this.all((a, b, c, i) => {
      const n = unit(cross(sub(b, a), sub(c, a)));
      positions.set([...a, ...b, ...c], 9 * i);
      normals.set([...n, ...n, ...n], 9 * i);
    });
    return { positions, normals, colours: null, indices: Uint32Array.from(this.faces, (_, i) => i) };
  }

  /**
   * The faces as a camera sees them: for each corner a plane through the eye, by pixels right, down and 1, which gives
   * its share of a pixel by the depth there. What is behind the eye needs no clipping (Olano & Greer, 1997).
   */
  seen(camera, anew) {
    if (!anew && this.camera === camera) return this.ready;
    const { pose: m, focal, width, height } = camera, found = [];
    const place = (p) => {
      const [x, y, z] = [0, 1, 2].map((a) => m[a] * (p[0] - m[3]) + m[a + 4] * (p[1] - m[7]) + m[a + 8] * (p[2] - m[11]));
      return [focal * x - (width / 2) * z, -focal * y - (height / 2) * z, -z];
    };
    this.all((a, b, c) => {
      const at = [a, b, c].map(place), planes = at.map((_, k) => cross(at[(k + 1) % 3], at[(k + 2) % 3]));
      const volume = dot(at[0], planes[0]), light = lightOn(unit(cross(sub(b, a), sub(c, a))));
      const behind = at.some((p) => p[2] <= 0), ends = (axis) => at.map((p) => p[axis] / p[2]);
      const [left, top, right, bottom] = behind ? [0, 0, width, height]
        : [Math.min(...ends(0)), Math.min(...ends(1)), Math.max(...ends(0)), Math.max(...ends(1))];
      const colour = CLAY.map((v) => Math.min(v * light, 1) / SAMPLES.length);
      if (volume) found.push({ planes: planes.map((n) => n.map((v) => v / volume)), left, top, right, bottom, colour });
    });
    this.camera = camera;
    return (this.ready = found);
  }

  /** Rows `first` … `last − 1`: the mean of the faces that are nearest at each pixel's samples. */
  rows(camera, first, last, out) {
    const { width, height } = sizeOf(camera), from = first * width, count = (last - first) * width * SAMPLES.length;
    // By sample: one by the depth of what is nearest, and which face that is.
    const nearest = new Float64Array(count), which = new Int32Array(count).fill(-1), faces = this.seen(camera, !first);
    faces.forEach(({ planes: [a, b, c], left, top, right, bottom }, face) => {
      const y1 = Math.min(Math.floor(bottom), last - 1), x0 = Math.max(Math.floor(left), 0), x1 = Math.min(Math.floor(right), width - 1);
      for (let y = Math.max(Math.floor(top), first); y <= y1; y++) {
        for (let x = x0, i = (y * width + x - from) * SAMPLES.length; x <= x1; x++) {
          for (let s = 0; s < SAMPLES.length; s++, i++) {
            const px = x + SAMPLES[s][0], py = y + SAMPLES[s][1];
            const p = a[0] * px + a[1] * py + a[2], q = b[0] * px + b[1] * py + b[2], r = c[0] * px + c[1] * py + c[2];
            if (!(p >= 0 && q >= 0 && r >= 0 && p + q + r > nearest[i])) continue;
            nearest[i] = p + q + r;
            which[i] = face;
          }
        }
      }
    });
    for (let i = 0; i < count; i += SAMPLES.length) {
      const at = from + i / SAMPLES.length, hit = [], x = at % width, y = Math.floor(at / width);
      for (let s = i; s < i + SAMPLES.length; s++) if (which[s] >= 0) hit.push(s);
      out.opacities[at] = hit.length / SAMPLES.length;
      for (let k = 0; k < 3; k++) out.colours[3 * at + k] = hit.reduce((sum, s) => sum + faces[which[s]].colour[k], 0);
      const slant = Math.hypot((x + 0.5 - width / 2) / camera.focal, (y + 0.5 - height / 2) / camera.focal, 1);
      if (!globalThis.PAGE) out.depths[at] = hit.length ? slant / Math.max(...hit.map((s) => nearest[s])) : Infinity;
    }
  }
}
