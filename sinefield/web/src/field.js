// A file's bytes as a field that can be asked and drawn.
import { fail } from "./bytes.js";
import { decode } from "./container.js";
import { applyEdits } from "./edit.js";
import { ImageField } from "./image.js";
import { networks } from "./network.js";
import { RadianceField } from "./radiance.js";
import { ShapeField } from "./shape.js";

// A page has the one kind that it draws, by the build's word for ONLY; what it lacks is not in its script.
const MAKE = {
  shape: (globalThis.ONLY ?? "shape") === "shape" ? ShapeField : null,
  radiance: (globalThis.ONLY ?? "radiance") === "radiance" ? RadianceField : null,
  image: (globalThis.ONLY ?? "image") === "image" ? ImageField : null,
};

/** @see sinefield.d.ts */
export class SineField {
  constructor(packed, drawer) {
    const { kind, settings, note, params, box, background, view, size, cells, cellsShape } = packed;
    Object.assign(this, { kind, settings, note, params, drawer, cells, cellsShape, view, size });
    this.bounds = box ? Array.from(box) : null;
    this.background = kind === "radiance" ? Array.from(background) : [1, 1, 1];
    this.simd = (drawer.network ?? drawer.trunk).engine.simd; // whether WASM draws it
    this.hasColours = kind !== "shape" || !!drawer.painter;
  }

  density(points) {
    return this.kind === "radiance" ? this.drawer.density(points) : fail(`a field of kind ${this.kind} has no density`);
  }

  sdf(points) {
    return this.kind === "shape" ? this.drawer.sdf(points) : fail(`a field of kind ${this.kind} has no distances`);
  }

  colour(points, directions) {
    if (this.kind === "radiance" && directions?.length !== points.length) fail("give a unit direction for each point");
    return this.drawer.colour(points, directions);
  }

  /** All of a camera's picture at once. */
  render(camera) {
    const n = camera.width * camera.height;
    if (!(n > 0 && n <= 2 ** 26)) fail(`a picture of ${camera.width} × ${camera.height} pixels cannot be drawn`);
    const { width, height } = camera, out = this.picture(width, height);
    this.drawer.rows(camera, 0, height, out);
    return out;
  }

  /** An empty picture for `rows` of the drawer. */
  picture(width, height) {
    const n = width * height;
    return { width, height, colours: new Float32Array(3 * n), opacities: new Float32Array(n), depths: new Float32Array(n) };
  }
}

/** What `decode` gives, ready to be asked. */
export const fieldOf = (packed, { plain = false } = {}) => {
  if (packed.kind === "adapter") fail("the file holds an adapter, not a field; give it as an edit of one");
  return new SineField(packed, new MAKE[packed.kind](packed, networks(packed.kind, packed.settings, packed.params, plain)));
};

/** A `.sine` file as a field; `edits`: files of `sinefield adapt`, applied in this order. */
export const loadSine = (bytes, { edits = [], plain = false } = {}) => {
  const packed = decode(asBytes(bytes));
  return fieldOf(edits.length && !globalThis.ONLY ? applyEdits(packed, edits.map((edit) => decode(asBytes(edit)))) : packed, { plain });
};

const asBytes = (given) => {
  if (given instanceof ArrayBuffer) return new Uint8Array(given);
  if (ArrayBuffer.isView(given)) return new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
  return fail("give the file's bytes: an ArrayBuffer or a Uint8Array");
};
