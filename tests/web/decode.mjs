// What the JavaScript decoder makes of files, as one JSON object a line: node decode.mjs SOURCES FILE…
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [sources, ...files] = process.argv.slice(2);
const { crc32, decode } = await import(pathToFileURL(`${sources}/container.js`));
const hex = (bytes) => crc32(bytes).toString(16).padStart(8, "0");
const packbits = (cells) => {
  const out = new Uint8Array(Math.ceil(cells.length / 8));
  cells.forEach((bit, i) => (out[i >> 3] |= bit << (7 - (i & 7))));
  return out;
};
for (const file of files) {
  let line;
  try {
    const packed = decode(new Uint8Array(fs.readFileSync(file)));
    const tensors = {};
    for (const [name, { shape, values }] of packed.params) {
      const same = Float32Array.from(values); // of a mesh whole numbers
      tensors[name] = [shape, hex(new Uint8Array(same.buffer))];
    }
    const { kind, settings, note, cells, cellsShape, edit = null } = packed;
    line = { kind, settings, note, tensors, edit: edit && { ...edit, box: edit.box && Array.from(edit.box) } };
    line.box = packed.box ? Array.from(packed.box) : null;
    const count = cells?.reduce((sum, bit) => sum + bit, 0);
    line.cells = cells ? { shape: cellsShape, count, crc: hex(packbits(cells)) } : null;
  } catch (error) {
    line = { error: error.name, message: error.message };
  }
  console.log(JSON.stringify(line));
}
