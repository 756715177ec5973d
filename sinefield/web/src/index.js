import { SineFieldElement } from "./element.js";
import { fieldOf } from "./field.js";
import { isHand, serve } from "./hands.js";
import { define } from "./stage.js";

export { SineError } from "./bytes.js";
export { orbitPose } from "./camera.js";
export { decode } from "./container.js";
export { bake } from "./bake.js";
export { loadSine } from "./field.js";
export { meshOf } from "./mesh.js";
if (isHand()) serve(fieldOf);
else if (globalThis.customElements) define(SineFieldElement);
