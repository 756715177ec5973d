// Edits: small files that turn a field into that of a changed scene.
import { fail } from "./bytes.js";
import { crc32 } from "./container.js";
import { MOST_WORK, matrix } from "./network.js";
import { columnsOf, networksOf, tensorsOf } from "./settings.js";
import { coded } from "./shared.js";

/** The CRC-32 by which an edit knows its base. */
const fingerprint = ({ kind, settings, params }) => {
  const bytes = (text) => new TextEncoder().encode(text);
  let sum = crc32(bytes(kind));
  for (const { name } of tensorsOf(kind, settings)) {
    const { shape, values } = params.get(name);
    sum = crc32(bytes(`${name}(${shape.join(", ")}${shape.length > 1 ? "" : ","})`), sum);
    sum = crc32(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), sum);
  }
  return sum;
};

/** [W | bias] of a layer with the edit's delta added. */
const edited = (packed, form, part, weight, bias) => {
  const { rank, alpha, omega, rows, columns, kind } = form, wide = columns - 1;
  if (weight.length !== rows * wide) fail("an edit has a layer of another size than its base; adapt again");
  if (rows * columns * rank > MOST_WORK) fail("an edit is larger than a page can draw");
  const a = part("a"), b = part("b"), by = alpha / rank / (omega ? Math.sqrt(columns) : 1);
  const w = new Float32Array(rows * wide), c = new Float32Array(rows), row = new Float64Array(columns);
  for (let r = 0; r < rows; r++) {
    for (let k = 0; k < columns; k++) {
      let sum = 0;
      for (let i = 0; i < rank; i++) sum += b[r * rank + i] * a[i * columns + k];
      row[k] = by * (omega ? Math.sin(omega * sum) : sum) + (k < wide ? weight[r * wide + k] : bias[r]);
    }
    if (kind.endsWith("dora")) {
      const length = part("magnitude")[r] / Math.hypot(...row);
      for (let k = 0; k < columns; k++) row[k] *= length;
    }
    w.set(row.subarray(0, wide), r * wide);
    c[r] = row[wide];
  }
  return [{ shape: [rows, wide], values: w }, { shape: [rows], values: c }];
};

/** A field with edits applied; its weights are dense from then on. Or the shape that a code makes of its base. */
export const applyEdits = (base, edits) => {
  if (edits[0].kind === "code" || base.kind === "shared") {
    // The code's shape has numbers that are Python's but for rounding: no edit would know it as its base.
    if (edits.length > 1) fail("a page takes a code alone, without edits");
    return coded(base, edits[0], fingerprint(base));
  }
  const own = fingerprint(base), nets = networksOf(base.kind, base.settings);
  const packed = { ...base, params: new Map(base.params) }, boxes = [];
  for (const [name, net] of Object.entries(nets)) {
    for (let i = 1; i < net.depth && net.weights !== "dense"; i++) {
      if (net.width * columnsOf(net, i) * net.rank > MOST_WORK) fail("its networks are larger than a page can draw");
      const values = matrix(net, base.params, name, i);
      packed.params.set(`${name}.weights.${i}.weight`, { shape: [net.width, columnsOf(net, i)], values });
    }
  }
  packed.settings = { ...base.settings, weights: "dense" };
  for (const { kind, edit, targets, params, cells, cellsShape } of edits) {
    if (kind !== "adapter" || !edit) fail("an edit's file is no edit of a field; make one with sinefield adapt");
    if (edit.of !== base.kind || edit.base !== own) fail("an edit was made for another base; give its own");
    for (const [name, form] of targets) {
      const at = `${name}.weight`, bias = name.replace(/\.weights\.(\d+)$/, ".biases.$1");
      if (bias === name || !packed.params.has(at) || !packed.params.has(bias)) fail(`an edit's layer ${name} is not its base's`);
      const part = (which) => params.get(`${name}.${which}`).values;
      const [w, c] = edited(packed, form, part, packed.params.get(at).values, packed.params.get(bias).values);
      packed.params.set(at, w).set(bias, c);
    }
    if (edit.box && base.kind === "shape") boxes.push(edit.box);
    if (cells) {
      if (cellsShape.join() !== base.cellsShape?.join()) fail("an edit's grid is not its base's");
      const before = base.cells;
      packed.cells = packed.cells.map((now, i) => (cells[i] ? (before[i] ? 0 : 1) : now));
    }
  }
  if (boxes.length) {
    packed.placed = base.box;
    packed.box = base.box.map((_, a) => (a < 3 ? Math.min : Math.max)(...boxes.map((box) => box[a])));
  }
  return packed;
};
