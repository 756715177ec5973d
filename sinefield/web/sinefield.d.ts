/** What is wrong with a file, or with what is asked of a field, in one line. */
export class SineError extends Error {
  name: "SineError";
}

export type Points = Float32Array | Float64Array;
/** xmin ymin zmin xmax ymax zmax. */
export type Box = [number, number, number, number, number, number];

/** A pinhole camera; OpenGL axes: x right, y up, looking along −z; pixel centres at + 0.5. */
export interface Camera {
  width: number;
  height: number;
  /** Focal length in pixels. */
  focal: number;
  /** Camera to world, three rows of four. */
  pose: ArrayLike<number>;
}

/** The part of an image around `centre`, with `scale` field units a pixel; all of it where these are not given. */
export interface ImageView {
  width: number;
  height: number;
  centre?: [number, number];
  scale?: number;
}

export interface Picture {
  width: number;
  height: number;
  /** sRGB times opacity, three numbers a pixel, row by row from the top. */
  colours: Float32Array;
  opacities: Float32Array;
  /** Along the ray, in the field's units; infinite where nothing is met. */
  depths: Float32Array;
}

export interface Parameter {
  shape: number[];
  values: Float32Array | Int32Array;
}

export interface SineField {
  readonly kind: "shape" | "radiance" | "image" | "mesh";
  /** Of the object or scene; null of an image. */
  readonly bounds: Box | null;
  /** By name, in the network's order; the very float32 numbers that Python has. Of a mesh `nodes` and `faces`, whole numbers. */
  readonly params: Map<string, Parameter>;
  readonly settings: Record<string, unknown>;
  /** Where the field comes from, as the file says. Never put it into a page as HTML. */
  readonly note: Record<string, unknown>;
  /** sRGB of 0 to 1 that pictures are composited on. */
  readonly background: [number, number, number];
  /** Width and height of an image. */
  readonly size?: [number, number];
  readonly hasColours: boolean;
  /** Whether WASM with SIMD draws it; else plain JavaScript does. */
  readonly simd: boolean;
  /** Of a radiance field, per unit of its space, at points x y z x y z …; the box is not enforced. */
  density(points: Points): Float32Array;
  /** Of a shape or a mesh: signed distances (negative inside), or occupancies of 0 to 1, or distances to a sheet. */
  sdf(points: Points): Float32Array;
  /** sRGB of 0 to 1: of light along unit directions, of a surface, or of an image at x y x y … */
  colour(points: Points, directions?: Points): Float32Array;
  /** An exact picture, at once; large ones take seconds. */
  render(camera: Camera | ImageView): Picture;
}

/**
 * A `.sine` file as a field. `edits`: files of `sinefield adapt`, in order, or of a set's base the code of one shape; `plain`: without WASM.
 * @throws {SineError} for what is no such file, newer, damaged, of a kind that is not drawn, or too large for a page.
 */
export function loadSine(
  bytes: ArrayBuffer | ArrayBufferView,
  options?: { edits?: (ArrayBuffer | ArrayBufferView)[]; plain?: boolean },
): SineField;

/** What a file holds, without anything to draw it. */
export function decode(bytes: Uint8Array): Record<string, unknown>;

/** The pose of a camera on a circle around a centre, looking at it; angles in radians. */
export function orbitPose(orbit: {
  centre: ArrayLike<number>;
  up: number[];
  distance: number;
  azimuth: number;
  elevation: number;
}): number[];

export interface Mesh {
  positions: Float32Array;
  normals: Float32Array;
  /** sRGB of 0 to 1, null of a shape without colours. */
  colours: Float32Array | null;
  indices: Uint32Array;
}

/** A shape's surface; `resolution` cells along the longest side. A mesh as it is, three vertices a face. */
export function meshOf(field: SineField, resolution?: number): Mesh;

/** Values at the nodes of a lattice, in bricks of 8³ voxels (9³ nodes) where there is matter. */
export interface Voxels {
  low: number[];
  /** Side of a voxel. */
  voxel: number;
  /** Bricks along x, y, z, and nodes. */
  shape: number[];
  dims: number[];
  /** By brick, x fastest: 0 where there is none, else 1 + its place in the atlas, 28 along x and y. */
  bricks: Uint16Array;
  /** Sides of the atlas, and its RGBA bytes, x fastest: three features and the density's logarithm, then four features each. */
  size: number[];
  textures: Uint8Array[];
  /** Occupied cells, x fastest, `grid` along each side. */
  cells: Uint8Array;
  grid: number;
  /** The head's weights, four floats each, by hidden unit. */
  head: Float32Array;
  step: number;
}

/** Voxels of a radiance field in a box, in steps; `n` (at most 256) along the longest side of what is occupied. */
export function bake(field: SineField, n: number): Generator<number, Voxels>;

/**
 * `<sine-field src alt poster camera-controls auto-rotate webgl="always|never">`.
 * Events: `load` ({kind}), `error` ({message}), `draw` ("moving", "quick" or "exact").
 */
export interface SineFieldElement extends HTMLElement {
  readonly field: SineField | null;
  /** Draws a file's bytes in place of `src`. */
  show(bytes: ArrayBuffer | ArrayBufferView, options?: { edits?: (ArrayBuffer | ArrayBufferView)[] }): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "sine-field": SineFieldElement;
  }
}
