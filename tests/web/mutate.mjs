// Mutated files into the decoder: node mutate.mjs SOURCES COUNT SEED FILE… prints one JSON object.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [sources, count, seed, ...files] = process.argv.slice(2);
const { crc32, decode } = await import(pathToFileURL(`${sources}/container.js`));
const { fieldOf } = await import(pathToFileURL(`${sources}/field.js`));
const { applyEdits } = await import(pathToFileURL(`${sources}/edit.js`));
let state = Number(seed) || 1;
const random = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};
const originals = files.map((file) => new Uint8Array(fs.readFileSync(file)));

// Codes are put on the base among the files, mutated bases take its code.
const sound = (bytes) => {
  try {
    return decode(bytes);
  } catch {
    return null; // of a kind that is not drawn
  }
};
const whole = originals.map(sound).filter(Boolean);
const base = whole.find(({ kind }) => kind === "shared"), code = whole.find(({ kind }) => kind === "code");

const mutated = (bytes) => {
  let out = Array.from(bytes);
  for (let n = 1 + random(4); n; n--) {
    // The head decides most; half of all changes go there.
    const at = random(2) ? 9 + random(Math.max(Math.min(120, out.length - 9), 1)) : random(out.length);
    const kind = random(6);
    if (kind === 0) out[at] = random(256);
    else if (kind === 1) out[at] ^= 1 << random(8);
    else if (kind === 2) out.splice(at, 0, ...Array.from({ length: 1 + random(6) }, () => random(256)));
    else if (kind === 3) out.splice(at, 1 + random(8));
    else if (kind === 4) out.splice(at, 3, 255, 255, 127);
    else out = out.slice(0, at + 1);
  }
  const made = Uint8Array.from(out);
  // Most with a checksum that holds, so that what lies behind it is reached.
  if (made.length > 9 && random(10)) new DataView(made.buffer).setUint32(5, crc32(made.subarray(9)), true);
  return made;
};

// maxRSS would be that of the process that started this one, where that was larger.
const peak = () => {
  const status = fs.existsSync("/proc/self/status") ? fs.readFileSync("/proc/self/status", "utf8") : "";
  return 1024 * Number(/VmHWM:\s*(\d+)/.exec(status)?.[1] ?? process.resourceUsage().maxRSS);
};

const rested = process.memoryUsage().rss;
const found = { read: 0, refused: 0, crashed: [], slowest: 0 };
for (let i = 0; i < Number(count); i++) {
  const bytes = mutated(originals[i % originals.length]), begin = process.cpuUsage();
  try {
    let packed = decode(bytes);
    if (base && packed.kind === "code") packed = applyEdits(base, [packed]);
    else if (code && packed.kind === "shared") packed = applyEdits(packed, [code]);
    if (packed.kind !== "adapter") {
      const field = fieldOf(packed);
      if (packed.kind === "shape" || packed.kind === "mesh") field.sdf(new Float64Array(3));
      else if (packed.kind === "radiance") field.density(new Float64Array(3));
      else field.colour(new Float64Array(2));
      if (packed.kind === "mesh") field.render({ width: 16, height: 16, focal: 16, pose: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 4] });
    }
    found.read++;
  } catch (error) {
    if (error.name === "SineError") found.refused++;
    else found.crashed.push(`${i}: ${error.stack}`);
  }
  const { user, system } = process.cpuUsage(begin);
  found.slowest = Math.max(found.slowest, (user + system) / 1e6);
}
found.grown = peak() - rested;
console.log(JSON.stringify(found));
