// The script of a page that `sinefield page` writes: its file stands in it as base64.
import { fieldOf } from "./field.js";
import { isHand, serve } from "./hands.js";
import { Stage, define } from "./stage.js";

const start = () => {
  if (globalThis.ONLY) customElements.define("sine-field", Stage);
  else define(Stage);
  const element = document.querySelector("sine-field");
  const bytesOf = ({ textContent }) => Uint8Array.from(atob(textContent), (c) => c.charCodeAt(0));
  try {
    if (globalThis.PAGE) element.show(bytesOf(document.querySelector(".field")));
    else {
      const [base, ...edits] = Array.from(document.querySelectorAll(".field"), bytesOf);
      element.show(base, { edits });
    }
  } catch (error) {
    element.fail(error); // no base64
  }
  const button = document.querySelector("button");
  if (!button) return; // the field is a part of a longer page
  button.hidden = !document.fullscreenEnabled;
  button.addEventListener("click", () => element.player?.full(element));
  element.focus();
};
// A worker that bakes has this same script.
if (!globalThis.NO_RADIANCE && isHand()) serve(fieldOf);
else start();
