// The script of a page that `sinefield page` writes: its file stands in it as base64.
import { define } from "./element.js";

define();
const element = document.querySelector("sine-field");
const [base, ...edits] = Array.from(document.querySelectorAll(".field"), ({ textContent }) =>
  Uint8Array.from(atob(textContent), (c) => c.charCodeAt(0)));
element.show(base, { edits });
const button = document.querySelector("button");
button.hidden = !document.fullscreenEnabled;
button.addEventListener("click", () => element.player?.full(element));
element.focus();
