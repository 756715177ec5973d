// A file's bytes as a field that can be asked and drawn.
import { fail } from "./bytes.js";
import { decode } from "./container.js";
import { applyEdits } from "./edit.js";
import { FacetField } from "./facets.js";
import { ImageField } from "./image.js";
import { networks } from "./network.js";
import { RadianceField } from "./radiance.js";
import { ShapeField } from "./shape.js";

// A page's script has no more than its field needs: tools/build.mjs defines the words NO_… and LEAN, and what stands
// behind them is left out.
const drawerOf = (packed, plain) => {
  const { kind, settings, params } = packed;
  if (!globalThis.NO_MESH && kind === "mesh") return new FacetField(packed);
  const nets = globalThis.NO_NETWORKS ? null : networks(kind, settings, params, plain);
  if (!globalThis.NO_SHAPE && kind === "shape") return new ShapeField(packed, nets);
  if (!globalThis.NO_RADIANCE && kind === "radiance") return new RadianceField(packed, nets);
  return globalThis.NO_IMAGE ? null : new ImageField(packed, nets);
};

/** @see sinefield.d.ts */
export class SineField {
  constructor(packed, drawer) {
    const { kind, settings, note, params, box, background, view, size, cells, cellsShape } = packed;
    Object.assign(this, { kind, settings, params, drawer, view, size, packed });
    if (!globalThis.PAGE) Object.assign(this, { note, cells, cellsShape });
    this.bounds = box ? Array.from(box) : null;
    this.background = kind === "radiance" ? Array.from(background) : [1, 1, 1];
    this.simd = !!(drawer.network ?? drawer.trunk)?.engine.simd; // whether WASM draws it
    if (!globalThis.PAGE) this.hasColours = kind !== "mesh" && (kind !== "shape" || !!drawer.painter);
  }

  // < asked by scripts, never by pages
  density(points) {
    return this.kind === "radiance" ? this.drawer.density(points) : fail(`a field of kind ${this.kind} has no density`);
  }

  sdf(points) {
    return this.drawer.sdf ? this.drawer.sdf(points) : fail(`a field of kind ${this.kind} has no distances`);
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
  // >

  /** An empty picture for `rows` of the drawer. */
  picture(width, height) {
    const n = width * height;
    return { width, height, colours: new Float32Array(3 * n), opacities: new Float32Array(n), ...(!globalThis.PAGE && { depths: new Float32Array(n) }) };
  }
}

/** What `decode` gives, ready to be asked. */
export const fieldOf = (packed, options) => {
  if (!globalThis.PAGE && packed.kind === "adapter") fail("the file holds an adapter, not a field; give it as an edit of one");
  if (!globalThis.PAGE && packed.kind === "code") fail("the file holds the code of one shape; give it as an edit of its set's base");
  if (!globalThis.PAGE && packed.kind === "shared") fail("the file holds what shapes share; give the code of one of them as its edit");
  return new SineField(packed, drawerOf(packed, !globalThis.PAGE && options?.plain));
};

/** A `.sine` file as a field; `edits`: files of `sinefield adapt`, applied in this order, or a shape's code. */
export const loadSine = (bytes, options) => {
  if (globalThis.PAGE) return fieldOf(decode(bytes));
  const { edits = [], plain = false } = options ?? {}, packed = decode(asBytes(bytes));
  return fieldOf(edits.length && !globalThis.NO_EDITS ? applyEdits(packed, edits.map((edit) => decode(asBytes(edit)))) : packed, { plain });
};

const asBytes = (given) => {
  if (given instanceof ArrayBuffer) return new Uint8Array(given);
  if (ArrayBuffer.isView(given)) return new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
  return fail("give the file's bytes: an ArrayBuffer or a Uint8Array");
};
