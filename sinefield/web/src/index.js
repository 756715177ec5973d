import { define } from "./element.js";

export { SineError } from "./bytes.js";
export { orbitPose } from "./camera.js";
export { decode } from "./container.js";
export { bake } from "./bake.js";
export { loadSine } from "./field.js";
export { meshOf } from "./mesh.js";
if (globalThis.customElements) define();
