import { Loader, LoadingManager, Mesh } from "three";

/** `.sine` files for three.js: a shape as a mesh, a radiance field in a box as an object that draws itself with depth. */
export class SineLoader extends Loader<Mesh> {
  constructor(manager?: LoadingManager);
  /** Cells of a mesh, and voxels of a radiance field, along the longest side; 96 each where not given. */
  setResolution(resolution: { mesh?: number; light?: number }): this;
  parse(data: ArrayBuffer | ArrayBufferView): Mesh;
}
