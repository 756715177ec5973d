// Where in its box a shape's surface may be: values at the corners of cells near it.
import { fail } from "./bytes.js";

export const SLOPE = 1.5;
const BLOCK = 4;

const eachCell = (shape, each) => {
  for (let x = 0, i = 0; x < shape[0]; x++) for (let y = 0; y < shape[1]; y++) for (let z = 0; z < shape[2]; z++, i++) each(i, x, y, z);
};

/**
 * `shape` cells of side `cell` from `low`, in blocks of `block`. `values` at corners (one more along each axis): those of
 * cells near the surface, else of their block. `active` cells and `blocks` may hold surface.
 */
export const scan = (field, n) => {
  const { clip, hasSlope, sheet } = field, sides = [0, 1, 2].map((a) => clip[a + 3] - clip[a]);
  const cell = Math.max(...sides) / n, coarse = sides.map((side) => Math.max(Math.ceil(side / cell / BLOCK - 1e-9), 1));
  const shape = coarse.map((count) => count * BLOCK), low = Array.from(clip.subarray(0, 3)), side = BLOCK * cell;
  const place = (dims, size, shift) => {
    const points = new Float64Array(3 * dims[0] * dims[1] * dims[2]);
    eachCell(dims, (i, x, y, z) => points.set([low[0] + (x + shift) * size, low[1] + (y + shift) * size, low[2] + (z + shift) * size], 3 * i));
    return points;
  };
  const middles = place(coarse, side, 0.5), beyond = !globalThis.LEAN && sheet ? new Float32Array(middles.length / 3) : null;
  let centres = field.signed(middles, beyond);
  if (!globalThis.LEAN && sheet) centres = centres.map((v, i) => Math.hypot(v, Math.max(beyond[i], 0)));
  if (!centres.every(Number.isFinite)) fail("the field is not finite within its box; train again, with a lower rate");
  let blocks = Uint8Array.from(centres, (v) => (Math.abs(v) <= (SLOPE * side * Math.sqrt(3)) / 2 ? 1 : 0));
  if (!globalThis.LEAN && !hasSlope) {
    const corners = field.signed(place(coarse.map((c) => c + 1), side, 0)), [, cy, cz] = coarse, mixed = new Uint8Array(centres.length);
    eachCell(coarse, (i, x, y, z) => {
      for (let c = 0; c < 8; c++) {
        const v = corners[((x + (c >> 2)) * (cy + 1) + y + ((c >> 1) & 1)) * (cz + 1) + z + (c & 1)];
        if (v < 0 !== centres[i] < 0) mixed[i] = 1;
      }
      if (centres[i] < 0 && (!x || !y || !z || x === coarse[0] - 1 || y === cy - 1 || z === cz - 1)) mixed[i] = 1;
    });
    // A neighbour's surface may reach over: without a bound, look one block further.
    blocks = new Uint8Array(centres.length);
    eachCell(coarse, (i, x, y, z) => {
      if (!mixed[i]) return;
      for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, coarse[0] - 1); u++) {
        for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, cy - 1); v++) {
          for (let w = Math.max(z - 1, 0); w <= Math.min(z + 1, cz - 1); w++) blocks[(u * cy + v) * cz + w] = 1;
        }
      }
    });
  }
  const [ny, nz] = [shape[1] + 1, shape[2] + 1], values = new Float32Array((shape[0] + 1) * ny * nz), wanted = [];
  const needed = new Uint8Array(values.length);
  eachCell(coarse, (i, x, y, z) => {
    for (let u = 0; u <= BLOCK; u++) {
      for (let v = 0; v <= BLOCK; v++) {
        const row = ((x * BLOCK + u) * ny + y * BLOCK + v) * nz + z * BLOCK;
        for (let w = 0; w <= BLOCK; w++) {
          if (blocks[i]) needed[row + w] = 1;
          else if (!needed[row + w]) values[row + w] = centres[i];
        }
      }
    }
  });
  needed.forEach((bit, i) => bit && wanted.push(i));
  const points = new Float64Array(3 * wanted.length);
  wanted.forEach((i, k) => {
    const z = i % nz, y = Math.floor(i / nz) % ny, x = Math.floor(i / nz / ny);
    points.set([low[0] + x * cell, low[1] + y * cell, low[2] + z * cell], 3 * k);
  });
  const rims = !globalThis.LEAN && sheet ? new Float32Array(wanted.length) : null, rim = !globalThis.LEAN && sheet ? new Float32Array(values.length).fill(Infinity) : null;
  field.signed(points, rims).forEach((v, k) => {
    values[wanted[k]] = v;
    if (!globalThis.LEAN && rim) rim[wanted[k]] = rims[k];
  });
  const active = new Uint8Array(shape[0] * shape[1] * shape[2]), reach = SLOPE * cell * Math.sqrt(3);
  eachCell(shape, (i, x, y, z) => {
    if (!blocks[((x >> 2) * coarse[1] + (y >> 2)) * coarse[2] + (z >> 2)]) return;
    let least = Infinity, inside = 0, close = !rim;
    for (let c = 0; c < 8; c++) {
      const at = ((x + (c >> 2)) * ny + y + ((c >> 1) & 1)) * nz + z + (c & 1);
      least = Math.min(least, Math.abs(values[at]));
      inside += values[at] <= 0;
      if (!globalThis.LEAN) close ||= rim[at] < reach;
    }
    const wall = !x || !y || !z || x === shape[0] - 1 || y === shape[1] - 1 || z === shape[2] - 1;
    active[i] = close && ((hasSlope ? least <= reach : !hasSlope) || (inside && inside < 8) || (inside && wall)) ? 1 : 0;
  });
  return { low, cell, shape, values, rim, active, blocks, block: BLOCK };
};
