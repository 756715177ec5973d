// Plain data: a file's note, and the settings that have no number.
import { Reader, fail, textOf } from "./bytes.js";
import { inflate } from "./inflate.js";

const KEYS = "seed steps seconds data path background downscale holdout held_out noise iou psnr source license " +
  "author title";
const BEGINNINGS = ["$SINEFIELD_DATA/", "$SINEFIELD_DATA/meshes/", "skimage:", "families:", "https://"];
const WORDS = '{"seed":0,"steps":,"seconds":,"source":"$SINEFIELD_DATA/meshes/.obj","background":"white",' +
  '"downscale":8,"holdout":8,"iou":[0.9,0.9],"psnr":[30.,"data":{"path":"lego';
export const MAX_NOTE = 1 << 16;
const MAX_DEPTH = 8;

/** An object of plain data. */
export const objectIn = (reader, depth) => {
  const found = new Map();
  const keys = KEYS.split(" ");
  for (let n = reader.varint(reader.left); n; n--) {
    const number = reader.byte();
    if (number > keys.length) fail(`key ${number} of its note is unknown`);
    const key = number ? keys[number - 1] : reader.text(reader.left);
    if (found.has(key)) fail("a key of its note stands twice");
    found.set(key, valueIn(reader, depth));
  }
  return Object.fromEntries(found);
};

const finite = (value) => (Number.isFinite(value) ? value : fail("a number of its note is not finite"));

/** One value after its tag. */
export const valueIn = (reader, depth = 0) => {
  const tag = reader.byte();
  if (tag < 3) return [null, false, true][tag];
  if (tag === 3) return reader.signed(2 ** 63);
  if (tag === 4) return finite(reader.float64());
  if (tag === 5) return reader.text(reader.left);
  if (tag < 8) {
    if (depth === MAX_DEPTH) fail("its note is nested too deep");
    if (tag === 7) return objectIn(reader, depth + 1);
    return Array.from({ length: reader.varint(reader.left) }, () => valueIn(reader, depth + 1));
  }
  if (tag > 15 && tag < 32) return reader.signed(2 ** 48) / 10 ** (tag - 16);
  if (tag - 32 in BEGINNINGS) return BEGINNINGS[tag - 32] + reader.text(reader.left);
  return fail(`its note has a value of the unknown kind ${tag}`);
};

/** The note as an object; `{}` of none. */
export const noteIn = (bytes, version) => {
  if (!bytes.length) return {};
  if (version > 1) {
    const reader = new Reader(bytes, version), note = objectIn(reader, 0);
    return reader.left ? fail("its note is damaged") : note;
  }
  const text = textOf(inflate(bytes, MAX_NOTE, new TextEncoder().encode(WORDS)));
  try {
    const note = JSON.parse(text);
    if (note && typeof note === "object" && !Array.isArray(note)) return note;
  } catch {
    // The same line for what is no JSON and what is no object.
  }
  return fail("its note is damaged");
};
