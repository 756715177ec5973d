// A shape's surface as triangles: a vertex in each cell that the surface passes (surface nets), drawn onto the field's
// own zero, with normals and colours from the networks.
import { fail } from "./bytes.js";
import { scan } from "./scan.js";

const PULLS = 2;

/** {positions, normals, colours or null, indices} of a shape field; `resolution` cells along its longest side. A mesh is as it is. */
export const meshOf = (field, resolution = 96) => {
  if (!globalThis.NO_MESH && field.kind === "mesh") return field.drawer.triangles();
  if (field.kind !== "shape") fail(`a field of kind ${field.kind} has no surface to mesh`);
  if (!(resolution >= 4 && resolution <= 512)) fail(`a mesh of ${resolution} cells a side; give 4 to 512`);
  const { drawer } = field, grid = scan(drawer, resolution), { low, cell, shape, active, rim } = grid, [nx, ny, nz] = shape;
  const values = grid.values, row = nz + 1, plane = (ny + 1) * row, vertexOf = new Map(), places = [], indices = [];
  // Beyond the box nothing is: what is inside at its walls is closed there.
  if (globalThis.LEAN || !drawer.sheet) {
    for (let x = 0, i = 0; x <= nx; x++) for (let y = 0; y <= ny; y++) for (let z = 0; z <= nz; z++, i++) {
      if (!(x && y && z && x < nx && y < ny && z < nz) && values[i] <= 0) values[i] = cell / 4;
    }
  }
  const corner = [0, 1, 2, 3, 4, 5, 6, 7].map((c) => (c >> 2) * plane + ((c >> 1) & 1) * row + (c & 1));
  for (let x = 0, i = 0; x < nx; x++) for (let y = 0; y < ny; y++) for (let z = 0; z < nz; z++, i++) {
    if (!active[i]) continue;
    const at = x * plane + y * row + z, sum = [0, 0, 0];
    let count = 0;
    for (let c = 0; c < 8; c++) {
      for (let axis = 1; axis < 8; axis *= 2) {
        if (c & axis) continue;
        const a = values[at + corner[c]], b = values[at + corner[c | axis]];
        if (a <= 0 === b <= 0) continue;
        const share = a / (a - b);
        sum[0] += (c >> 2) + (axis === 4 ? share : 0);
        sum[1] += ((c >> 1) & 1) + (axis === 2 ? share : 0);
        sum[2] += (c & 1) + (axis === 1 ? share : 0);
        count++;
      }
    }
    if (!count || (rim && rim[at] > 0)) continue;
    vertexOf.set(i, places.length / 3);
    places.push(...[x, y, z].map((v, a) => low[a] + (v + sum[a] / count) * cell));
  }
  const cellAt = (x, y, z) => vertexOf.get((x * ny + y) * nz + z);
  for (let x = 0; x < nx; x++) for (let y = 0; y < ny; y++) for (let z = 0; z < nz; z++) {
    if (!active[(x * ny + y) * nz + z]) continue;
    const at = x * plane + y * row + z, a = values[at] <= 0;
    const faces = [[plane, [0, 1, 0], [0, 0, 1]], [row, [0, 0, 1], [1, 0, 0]], [1, [1, 0, 0], [0, 1, 0]]];
    for (const [step, u, v] of faces) {
      if (a === values[at + step] <= 0) continue;
      const near = (i, j) => cellAt(x - i * u[0] - j * v[0], y - i * u[1] - j * v[1], z - i * u[2] - j * v[2]);
      if (x < u[0] + v[0] || y < u[1] + v[1] || z < u[2] + v[2]) continue;
      const q = [near(1, 1), near(0, 1), near(0, 0), near(1, 0)];
      if (q.some((k) => k === undefined)) continue;
      if (a) indices.push(q[0], q[1], q[2], q[0], q[2], q[3]);
      else indices.push(q[0], q[2], q[1], q[0], q[3], q[2]);
    }
  }
  const points = Float64Array.from(places), reach = cell / 16;
  for (let pull = 0; pull < PULLS && drawer.hasSlope; pull++) {
    const found = drawer.signed(points), slopes = drawer.normals(points, reach);
    for (let i = 0; i < found.length; i++) {
      const by = Math.min(Math.max(found[i], -cell / 2), cell / 2);
      for (let a = 0; a < 3; a++) points[3 * i + a] -= by * slopes[3 * i + a];
    }
  }
  const normals = drawer.normals(points, reach), colours = drawer.painter ? drawer.colour(points) : null;
  return { positions: Float32Array.from(points), normals, colours, indices: Uint32Array.from(indices) };
};
