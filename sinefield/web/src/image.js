// An image: colours at any place of it, and pictures of any part.
import { POINTS } from "./plain.js";

export class ImageField {
  constructor(packed, nets) {
    this.network = nets.network;
    [this.width, this.height] = packed.size;
  }

  /** sRGB of 0 to 1 at (x, y): (0, 0) the middle, y down, ±1 along the longest side. */
  colour(points) {
    const net = this.network, f = net.engine.floats, at = net.input / 4, count = points.length / 2, found = new Float32Array(3 * count);
    for (let i = 0; i < count; i += POINTS) {
      const n = Math.min(POINTS, count - i);
      for (let p = 0; p < n; p++) {
        f[at + p] = points[2 * (i + p)];
        f[at + POINTS + p] = points[2 * (i + p) + 1];
      }
      net.encode();
      const out = net.run();
      for (let p = 0; p < n; p++) {
        for (let c = 0; c < 3; c++) found[3 * (i + p) + c] = Math.min(Math.max(f[out + c * POINTS + p] + 0.5, 0), 1);
      }
    }
    return found;
  }

  /** Rows of a picture of `camera.width` × `camera.height` pixels that shows the part around `centre`, in field coordinates,
   * with `scale` field units a pixel: all of the image where these are not given. */
  rows({ width, height, centre = [0, 0], scale = 2 / Math.max(width, height) }, first, last, out) {
    const points = new Float64Array(2 * width * (last - first));
    for (let i = 0; i < points.length / 2; i++) {
      points[2 * i] = centre[0] + ((i % width) + 0.5 - width / 2) * scale;
      points[2 * i + 1] = centre[1] + (first + Math.floor(i / width) + 0.5 - height / 2) * scale;
    }
    const colours = this.colour(points), w = this.width / Math.max(this.width, this.height), h = this.height / Math.max(this.width, this.height);
    for (let i = 0; i < points.length / 2; i++) {
      const seen = Math.abs(points[2 * i]) <= w && Math.abs(points[2 * i + 1]) <= h ? 1 : 0, at = first * width + i;
      out.opacities[at] = seen;
      for (let c = 0; c < 3; c++) out.colours[3 * at + c] = seen * colours[3 * i + c];
    }
  }
}
