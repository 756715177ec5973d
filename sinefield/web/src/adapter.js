// The layers of an adapter, and what an edit of a field says of its base.
import { fail, textOf } from "./bytes.js";
import { inflate } from "./inflate.js";
import { boxIn } from "./parts.js";

const KINDS = ["sine", "lora", "sine-dora", "dora"];
const EDITED = ["shape", "radiance", "image"];
const MAX_SIDE = 1 << 20;

const positive = (value) =>
  value > 0 && value < Infinity ? value : fail(`an adapter's alpha or omega is ${value}; the file is damaged`);

const formIn = (reader) => {
  const number = reader.byte(), flags = reader.byte();
  if (number >= KINDS.length || flags > 1) fail(`an adapter has the unknown kind ${number}, ${flags}`);
  const kind = KINDS[number], rank = reader.varint(MAX_SIDE), alpha = positive(reader.number());
  const omega = kind.startsWith("sine") ? positive(reader.number()) : null;
  const rows = reader.varint(MAX_SIDE), columns = reader.varint(MAX_SIDE);
  if (rank < 1 || rank > Math.min(rows, columns)) fail(`an adapter has rank ${rank} on ${rows} × ${columns}`);
  return { kind, rank, alpha, omega, transposed: flags === 1, rows, columns };
};

const editIn = (reader) => {
  const of = reader.choice(EDITED), flags = reader.byte();
  if (flags > 3) fail(`an edit has the unknown flags ${flags}`);
  reader.take(4);
  const base = reader.view.getUint32(reader.at - 4, true);
  const box = flags & 1 ? boxIn(reader) : null;
  const grid = flags & 2 ? [reader.varint(1 << 13), reader.varint(1 << 9)] : null;
  if (grid && !(grid[0] && grid[1])) fail("an edit has a grid without cells");
  return { of, base, box, grid };
};

/** {targets, edit or null}: layers by name. */
export const adapterIn = (reader) => {
  const text = inflate(reader.take(reader.varint(1 << 20)), 1 << 20);
  const names = textOf(text).split("\n");
  if (names.length > Math.min(1 << 16, reader.left)) fail(`it names ${names.length} layers, which is too many`);
  if (new Set(names).size < names.length || names.some((name) => !name || /\p{C}/u.test(name))) {
    fail("its list of layers has a name twice, or one that is none");
  }
  let edit = null, count = reader.varint(names.length);
  if (!count) {
    edit = editIn(reader);
    count = reader.varint(names.length);
  }
  const forms = Array.from({ length: count }, () => formIn(reader));
  const targets = new Map(names.map((name) => [name, forms[reader.varint(forms.length - 1)]]));
  return { targets, edit };
};

/** Names of an adapter's tensors, in their order, with shape. */
export const adapterTensors = ({ targets }) => {
  const found = [];
  for (const [name, { kind, rank, rows, columns }] of targets) {
    const add = (part, shape) => found.push({ name: `${name}.${part}`, shape, octaves: [] });
    add("a", [rank, columns]);
    add("b", [rows, rank]);
    if (kind.endsWith("dora")) add("magnitude", [rows]);
  }
  return found;
};
