import { define } from "./element.js";

export { SineError } from "./bytes.js";
export { orbitPose } from "./camera.js";
export { decode } from "./container.js";
export { loadSine } from "./field.js";
if (globalThis.customElements) define();
