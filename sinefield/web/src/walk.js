// A mesh from its code: grown from a triangle along the border of what is known. docs/format.md, "Meshes", is the text.
import { Bits } from "./binary.js";
import { fail } from "./bytes.js";

const LARGEST = 30, SEED = 31, LONGEST = 24, LOOKS = 40;
// Words of contexts.
const SOME = 0, MORE = 1, DIGIT = 2, NEW = 3, AFTER = 4, BEFORE = 5, MISSING = 6;
/** A context by its word, a number's digits and its place, and a short list of numbers, the first below 4. */
const key = (word, [a, b = 0, c = -1], d = 0, k = 0) => ((((word * 32 + d) * 32 + k) * 4 + a) * 64 + b) * 16 + c + 1;
const FAR = [[2]];
const digitsOf = (n) => 32 - Math.clz32(Math.min(n, 2 ** 32 - 1));
const less = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const along = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

/** How sharply the border turns at a: 0 for about straight, 4 where x and y are close. Whole numbers of up to 68 bits. */
const turn = (x, a, y) => {
  const u = less(x, a), v = less(y, a), long = along(u, u) * along(v, v) >= 2 ** 49 ? BigInt : (n) => n;
  const s = long(along(u, v)), q = long(along(u, u)) * long(along(v, v));
  if (s <= 0) return long(4) * s * s < q ? 1 : 0;
  const square = long(16) * s * s;
  return 2 + (square >= long(4) * q) + (square >= long(9) * q);
};

class Walk {
  constructor(code, faces, digits) {
    this.coder = new Bits(code);
    Object.assign(this, { count: faces, digits, looks: LOOKS * faces, nodes: [], degree: [], faces: [], open: [] });
    // Edges of the border, by number: `edges` has {start, apex, after, before, id}, `border` those that are still there.
    Object.assign(this, { made: 0, border: new Map() });
  }

  run() {
    const { open, border } = this;
    while (this.faces.length < this.count) {
      const gate = open.pop();
      if (!gate) this.seed();
      else if (border.has(gate.id)) this.cross(gate);
    }
    if (!this.coder.done) fail("its mesh has more bytes than it needs; the file is damaged");
  }

  seed() {
    const plain = [0, 1, 2].map(() => this.bits(this.digits)), a = this.vertex(plain);
    const b = this.vertex(this.off(plain, SEED)), c = this.vertex(this.off(this.nodes[b], SEED));
    this.face(a, b, c);
    const edges = [this.edge(a, c), this.edge(b, a), this.edge(c, b)];
    edges.forEach((edge, k) => this.link(edge, edges[(k + 1) % 3]));
    this.open.push(...edges);
  }

  /** The face beyond an edge of the border. */
  cross(gate) {
    const { coder, nodes } = this, { after, before } = gate, a = gate.start, b = after.start, last = after.after;
    const at = (edge) => nodes[edge.start], full = (v) => Math.min(this.degree[v], 7);
    const shape = [[0, full(a), full(b)], [1, turn(at(before), at(gate), at(after)), turn(at(gate), at(after), at(last))]];
    const bit = (word) => coder.bit(key(word, shape[0]), key(word, shape[1]));
    const guess = at(gate).map((v, k) => v + at(after)[k] - nodes[gate.apex][k]);
    let joined = null, tip;
    if (bit(NEW)) tip = this.corner(gate, guess);
    else if (bit(AFTER)) joined = last;
    else if (bit(BEFORE)) joined = before;
    else if (coder.bit(key(MISSING, [0]))) return;
    else joined = this.far(guess);
    tip ??= joined.start;
    if (tip === a || tip === b) fail("a face has two corners at one vertex; the file is damaged");
    this.face(b, a, tip);
    const one = this.edge(a, b), two = this.edge(tip, a);
    this.border.delete(gate.id);
    const behind = joined?.before;
    this.link(before, one);
    this.link(one, joined ?? two);
    if (joined) this.link(behind, two);
    this.link(two, after);
    for (const edge of [one, two]) if (this.border.has(edge.id) && !this.zipped(edge)) this.open.push(edge);
  }

  edge(start, apex) {
    const edge = { start, apex, id: this.made++ };
    this.border.set(edge.id, edge);
    return edge;
  }

  link(edge, after) {
    edge.after = after;
    after.before = edge;
  }

  /** Takes an edge and its neighbour from the border where they are one edge, walked both ways. */
  zipped(edge) {
    for (const [one, two] of [[edge, edge.after], [edge.before, edge]]) {
      if (one.start !== two.after.start) continue;
      this.link(one.before, two.after);
      this.border.delete(one.id);
      this.border.delete(two.id);
      return true;
    }
    return false;
  }

  face(...corners) {
    this.faces.push(corners);
    for (const v of corners) this.degree[v]++;
  }

  /** One of all edges of the border, by how many of them start nearer to a guess. */
  far(guess) {
    const { border } = this;
    if (border.size > this.looks) {
      return border.get(this.bits(digitsOf(this.made))) ?? fail("its mesh goes on at an edge that is no border");
    }
    this.looks -= border.size;
    const near = Array.from(border.values(), (edge) => {
      const off = less(this.nodes[edge.start], guess);
      return [along(off, off), edge];
    }).sort((p, q) => p[0] - q[0] || p[1].id - q[1].id);
    return near[this.size(FAR)]?.[1] ?? fail("its mesh goes on at an edge that is not there");
  }

  /** A new vertex beyond an edge of the border. */
  corner(gate, guess) {
    const [a, b, o] = [gate.start, gate.after.start, gate.apex].map((v) => this.nodes[v]);
    const sides = [less(a, b), less(b, o), less(o, a)].reduce((sum, side) => sum + along(side, side), 0);
    return this.vertex(this.off(guess, Math.min(digitsOf(sides), LARGEST)));
  }

  vertex(node) {
    if (!node.every((v) => v >= 0 && v < 2 ** this.digits)) fail("a vertex of its mesh is outside of its lattice");
    this.degree.push(0);
    return this.nodes.push(node) - 1;
  }

  bits(digits) {
    let found = 0;
    for (; digits; digits--) found = 2 * found + this.coder.bit();
    return found;
  }

  /** A node by how far it is off a guess; `scale` says how far that might be. */
  off(guess, scale) {
    let most = 0;
    return guess.map((v, k) => {
      const where = [[0, scale], [1, scale >> 1, k ? Math.min(digitsOf(most), 5) : -1]], size = this.size(where);
      most = Math.max(most, size);
      return size && this.coder.bit() ? v - size : v + size;
    });
  }

  /** A whole number: zero or not; how many digits; the digits, the first of them learned. */
  size(where) {
    const { coder } = this;
    if (!coder.bit(...where.map((w) => key(SOME, w)))) return 0;
    let digits = 1, found = 1;
    while (digits < LONGEST && coder.bit(...where.map((w) => key(MORE, w, digits)))) digits++;
    for (let k = digits - 2; k >= 0; k--) found = 2 * found + (k >= digits - 3 ? coder.bit(key(DIGIT, where[0], digits, k)) : coder.bit());
    return found;
  }
}

/** Nodes and faces of a mesh's code, three whole numbers each, by name. */
export const meshIn = (code, { vertices, faces, digits, subdivisions }) => {
  if (faces > Math.min(64 + 4 * code.length, Math.floor((4096 + 24 * code.length) / 4 ** subdivisions))) fail(`it claims ${faces} faces in ${code.length} bytes; it is no proper .sine file`);
  const walk = new Walk(code, faces, digits);
  walk.run();
  if (walk.nodes.length !== vertices) fail(`it says ${vertices} vertices and has ${walk.nodes.length}; the file is damaged`);
  const flat = (rows) => ({ shape: [rows.length, 3], values: Int32Array.from(rows.flat()) });
  if (!walk.nodes.some((node) => node.some((v) => v > 0))) fail("its mesh is a single point");
  return new Map([["nodes", flat(walk.nodes)], ["faces", flat(walk.faces)]]);
};
