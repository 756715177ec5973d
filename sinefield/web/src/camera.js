// Cameras: OpenGL axes (x right, y up, looking along −z), pixel centres at + 0.5.
import { fail } from "./bytes.js";

export const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const unit = (a) => {
  const length = Math.hypot(...a) || 1;
  return a.map((v) => v / length);
};

/** Width and height of a camera's picture, refused where they are none. */
export const sizeOf = ({ width, height, focal, pose }) => {
  const whole = (n) => Number.isInteger(n) && n > 0 && n <= 16384;
  if (!whole(width) || !whole(height) || !(focal > 0) || pose?.length !== 12) {
    fail("a camera has width and height in pixels, focal in pixels, and pose, 12 numbers");
  }
  return { width, height };
};

/** Origin and unit direction of the ray through a place in the picture. */
export const rayOf = ({ pose: m, focal, width, height }, px, py) => {
  const x = (px - width / 2) / focal, y = -(py - height / 2) / focal;
  const d = [m[0] * x + m[1] * y - m[2], m[4] * x + m[5] * y - m[6], m[8] * x + m[9] * y - m[10]];
  const length = Math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
  return [[m[3], m[7], m[11]], [d[0] / length, d[1] / length, d[2] / length]];
};

/** Two unit vectors that circle an axis: where azimuth 0 and 90 degrees are. */
export const around = (up) => {
  const axis = unit(up), helper = Math.abs(axis[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0];
  const first = unit(sub(helper, axis.map((v) => v * dot(helper, axis))));
  return [first, cross(axis, first), axis];
};

/** The pose at azimuth and elevation (radians) on a circle around a centre, looking at it. */
export const orbitPose = ({ centre, up, distance, azimuth, elevation }) => {
  const [e1, e2, axis] = around(up), c = Math.cos(elevation), s = Math.sin(elevation);
  const back = [0, 1, 2].map((a) => c * (Math.cos(azimuth) * e1[a] + Math.sin(azimuth) * e2[a]) + s * axis[a]);
  const right = unit(cross(axis, back)), above = cross(back, right);
  return [0, 1, 2].flatMap((a) => [right[a], above[a], back[a], centre[a] + distance * back[a]]);
};
