// A `.sine` file's bytes to what they hold. Everything a file claims is checked before anything of its size is made.
import { adapterIn, adapterTensors } from "./adapter.js";
import { Reader, SineError, fail } from "./bytes.js";
import { Decoder, gridIn, sumsOf } from "./coder.js";
import { MAX_NOTE, noteIn, objectIn } from "./note.js";
import { partsIn } from "./parts.js";
import { BASE, settingsIn, sharedIn, tensorsOf } from "./settings.js";
import { meshIn } from "./walk.js";

const KINDS = [, "shape", "radiance", "image", "adapter", "shapes", "mesh", "code"];
/** What draws nothing by itself: edits, codes, and what codes change. */
const PARTIAL = ["adapter", "code", "shared"];
const VERSION = 2, HEAD = 9, MAX_FILE = 256 << 20, MAX_NUMBERS = 1 << 26;

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});
/** zlib's CRC-32. */
export const crc32 = (bytes, before = 0) => {
  let c = ~before;
  for (const byte of bytes) c = CRC[(c ^ byte) & 255] ^ (c >>> 8);
  return ~c >>> 0;
};

const kindIn = (reader) => {
  const number = reader.byte();
  if (globalThis.ONLY) return globalThis.ONLY;
  const kind = number === 255 && reader.version > 1 ? reader.name() : KINDS[number];
  if (!kind) fail("it holds an unknown kind of field; a newer player may know it");
  if ((globalThis.NO_EDITS || !PARTIAL.includes(kind)) && !BASE[kind]) fail(`it holds a field of the kind ${kind}, which this player cannot draw`);
  return kind;
};

/**
 * What a file holds: `kind, settings, box, background, view, frame, size, note, params`, `cells` with `cellsShape`, of
 * an adapter `targets` and `edit`, of a code its bytes as `code`. `params` has by name {shape, values}, values as float32.
 */
export function decode(bytes) {
  if (bytes.length < 4 || String.fromCharCode(...bytes.subarray(0, 4)) !== "SINE") fail("this is not a .sine file");
  if (bytes.length > MAX_FILE) fail("the file is larger than 256 MiB, which no field is");
  const version = bytes[4];
  if (version > VERSION || version === 0) fail(`the file is of version ${version}, this player reads ${VERSION}`);
  const body = bytes.subarray(HEAD);
  const told = bytes.length > HEAD && new DataView(bytes.buffer, bytes.byteOffset).getUint32(5, true);
  if (!body.length || told !== crc32(body)) return fail("the file's checksum is wrong: damaged or cut short; copy it again");
  if (globalThis.PAGE) return read(new Reader(body, version), bytes.length); // Python has read it
  try {
    return read(new Reader(body, version), bytes.length);
  } catch (error) {
    if (error instanceof SineError) throw error;
    throw new SineError(`the file is not a proper one (${error.message}); make it again`);
  }
}

const read = (reader, length) => {
  const kind = kindIn(reader), adapter = !globalThis.NO_EDITS && kind === "adapter" ? adapterIn(reader) : null;
  const shared = !globalThis.NO_EDITS && kind === "shared";
  const settings = adapter ? {} : shared ? sharedIn(objectIn(reader, 0)) : settingsIn(kind, reader);
  const packed = { kind, settings, ...adapter, ...partsIn(kind, settings, reader) };
  if (!globalThis.NO_MESH && kind === "mesh") packed.params = meshIn(reader.take(reader.varint(MAX_FILE)), settings);
  if (!globalThis.NO_EDITS && kind === "code") packed.code = reader.take(reader.varint(MAX_FILE));
  const note = reader.take(reader.varint(MAX_NOTE));
  if (!globalThis.PAGE) packed.note = noteIn(note, reader.version);
  const tensors = !globalThis.NO_EDITS && adapter ? adapterTensors(adapter) : tensorsOf(kind, settings);
  const { grid: n, grid_levels: levels } = settings, edited = globalThis.NO_EDITS ? null : adapter?.edit?.grid;
  const sides = globalThis.NO_RADIANCE ? null : edited ? [edited[0], edited[1], edited[1]] : kind === "radiance" ? [levels * n, n, n] : null;
  const numbers = tensors.reduce((sum, { shape: [a, b = 1, c = 1] }) => sum + a * b * (globalThis.NO_EDITS ? 1 : c), 0);
  const cells = sides ? sides[0] * sides[1] * sides[2] : 0;
  if (numbers > Math.min(MAX_NUMBERS, 64 * length) || cells > Math.max(2 ** 24, 256 * length)) {
    fail(`it claims ${numbers} numbers and ${cells} cells in ${length} bytes; it is no proper .sine file`);
  }
  let levelsLeft = 2 ** 18 + 256 * length;
  const rows = tensors.map((tensor) => {
    const row = rowIn(reader, tensor);
    if ((levelsLeft -= row.tables.reduce((sum, table) => sum + table.n, 0)) < 0) fail("its tables are too large");
    return row;
  });
  const block = !globalThis.NO_RADIANCE && sides && blockIn(reader, sides, edited, length);
  const decoder = new Decoder(reader.take(reader.left));
  packed.params ??= new Map(rows.map((row) => [row.name, valuesIn(decoder, row)]));
  if (!globalThis.NO_RADIANCE && sides) {
    packed.cells = new Uint8Array(cells);
    packed.cellsShape = sides;
    gridIn(decoder, block.contexts, packed.cells, sides, block.at, block.size);
  }
  decoder.finish();
  return packed;
};

/** Which cells of a grid are coded, and how: all of them, of an edit those of a block. */
const blockIn = (reader, sides, edited, length) => {
  if (globalThis.PAGE) return { at: [0, 0, 0], size: sides, contexts: reader.take(60) };
  const at = [0, 0, 0], size = [...sides];
  if (!globalThis.NO_EDITS && edited && reader.version > 1) {
    sides.forEach((side, a) => {
      at[a] = reader.varint(side);
      size[a] = reader.varint(side - at[a]);
    });
  }
  const [a, b, c] = size, most = Math.max(2 ** 18, (edited ? 8192 : 256) * length);
  if (a * b * c > most || a * (b + 4) > Math.max(2 ** 13, 64 * length)) fail("its grid is too large for its bytes");
  return { at, size, contexts: reader.take(60) };
};

const bits = new Uint32Array(1), asFloat = new Float32Array(bits.buffer);

const steps = (reader, n) =>
  Float32Array.from({ length: n }, () => {
    bits[0] = (reader.byte() | (reader.byte() << 8)) << 16;
    return asFloat[0];
  });

/** A float16 as it is. */
const half = (reader) => {
  const value = reader.byte() | (reader.byte() << 8), exponent = (value >> 10) & 31, part = value & 1023;
  const size = !globalThis.PAGE && exponent === 31 ? (part ? NaN : Infinity) : exponent ? (1024 + part) * 2 ** (exponent - 25) : part * 2 ** -24;
  return value >> 15 ? -size : size;
};

/** What a file says of a tensor before the coder's part. */
const rowIn = (reader, { name, shape, octaves }) => {
  const form = reader.byte();
  if (form > 15 || (form & 1 && form & 6) || (form & 8 && !octaves.length)) fail(`a tensor has the unknown form ${form}`);
  const row = { name, shape };
  if (form & 1) {
    row.entries = Float32Array.from({ length: reader.varint(256) }, () => half(reader));
  } else {
    const n = form & 2 ? shape[0] : 1;
    row.step = steps(reader, n);
    row.offset = form & 4 ? steps(reader, n) : new Float32Array(n);
  }
  if (![row.entries, row.step, row.offset].every((part) => !part || part.every(Number.isFinite))) {
    fail("a tensor's steps are not finite");
  }
  row.tables = (form & 8 ? octaves : [null]).map((columns) => {
    const low = reader.signed(1 << 16), n = reader.varint(65535) + 1;
    if (row.entries && (low < 0 || low + n > row.entries.length)) fail("a codebook is asked for more than it has");
    return { columns, low, n, ...(n > 1 && { centre: reader.varint(n - 1), slope: reader.byte(), bend: reader.byte() }) };
  });
  return row;
};

/** A tensor's entries, their levels taken from the coder. */
const valuesIn = (decoder, { shape, entries, step, offset, tables }) => {
  const [rows, second = 1, third = 1] = shape, wide = globalThis.NO_EDITS ? second : second * third, values = new Float32Array(rows * wide), each = step && step.length > 1;
  for (const { columns, low, n, centre, slope, bend } of tables) {
    const across = columns ? columns.length : wide;
    let at = 0;
    const put = (symbol) => {
      const row = Math.floor(at / across), place = row * wide + (columns ? columns[at % across] : at % across);
      const level = symbol + low, r = each ? row : 0;
      // Product and sum are each rounded once: the same on every machine.
      values[place] = entries ? entries[level] : Math.fround(level * step[r]) + offset[r];
      at++;
    };
    if (n > 1) decoder.take(rows * across, sumsOf(n, centre, slope, bend), put);
    else for (let i = rows * across; i; i--) put(0);
  }
  if (!values.every(Number.isFinite)) fail("a tensor's entries are not finite");
  return { shape, values };
};
