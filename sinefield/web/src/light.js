// How surfaces are lit: as Python's pictures are, but for hollows and shadows.
import { dot, unit } from "./camera.js";

export const CLAY = [0.8, 0.76, 0.72];
const UP = [0, 1, 0], ACROSS = [-0.45, 0, 0.75];
const from = (across, up) => unit(ACROSS.map((v, a) => across * v + up * UP[a]));
export const SUN = /* @__PURE__ */ from(1, 1), FILL = /* @__PURE__ */ from(-1, 0.35);

/** Brightness of a surface with this normal under the pictures' sky, sun and fill. */
export const lightOn = (n) => 0.54 + 0.2 * (0.5 + 0.5 * dot(n, UP)) + 0.46 * Math.max(dot(n, SUN), 0) + 0.14 * Math.max(dot(n, FILL), 0);
