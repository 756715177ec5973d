// An element that draws a field whose bytes it is given: what a page of `sinefield page` has.
import { SineError } from "./bytes.js";
import { loadSine } from "./field.js";
import { Player } from "./player.js";

/** An element with style set by script, which every policy allows. */
export const make = (name, style, content = {}) => Object.assign(Object.assign(document.createElement(name), content), { style });
export const FILL = "position:absolute;inset:0;width:100%;height:100%;";

// Where there is no page, as in Node, fields can still be asked.
const Base = globalThis.HTMLElement ?? class {};

export class Stage extends Base {
  static observedAttributes = ["alt", "camera-controls"];

  constructor() {
    super();
    this.canvas = make("canvas", `${FILL}display:block`);
    this.line = make("p", `${FILL}margin:0;padding:1em;box-sizing:border-box;font:inherit;overflow-wrap:anywhere`, { hidden: true });
    this.line.setAttribute("role", "alert");
    this.attachShadow({ mode: "open" }).append(this.canvas, this.line);
    this.field = this.player = null;
    if (!globalThis.PAGE) this.watch = [];
  }

  connectedCallback() {
    const { style } = this;
    style.display ||= "block";
    style.position ||= "relative";
    style.minHeight ||= "12em";
    style.overflow ||= "hidden";
    if (!this.hasAttribute("role")) this.setAttribute("role", "img");
    if (!this.hasAttribute("tabindex")) this.tabIndex = 0;
    const size = new ResizeObserver(() => this.player?.resize());
    size.observe(this);
    if (!globalThis.PAGE) this.watch = [size];
    this.attributeChangedCallback("alt");
  }

  // < a page keeps its element
  disconnectedCallback() {
    this.watch.forEach((watch) => watch.disconnect());
    this.drop();
  }
  // >

  attributeChangedCallback(name) {
    if (name === "alt") this.setAttribute("aria-label", this.getAttribute("alt") ?? "a neural field"); // what a screen reader says
    else this.controls();
  }

  drop() {
    this.off?.();
    this.player?.stop();
    this.player = this.field = null;
  }

  /** Draws a file's bytes; what is wrong with them is told in the element's place, and by its event. */
  show(bytes, options) {
    this.drop();
    try {
      this.field = loadSine(bytes, options);
      // What has no background of its own stands before the element's.
      if (this.field.kind !== "radiance") {
        const behind = getComputedStyle(this).backgroundColor.match(/^rgb\((\d+), (\d+), (\d+)\)$/);
        if (behind) this.field.background = behind.slice(1).map((v) => v / 255);
      }
      this.line.hidden = true;
      this.canvas.hidden = false;
      const player = (this.player = new Player(this.canvas, this.field, {
        drawn: (how) => this.dispatchEvent(new CustomEvent("draw", { detail: how })),
      }));
      player.resize();
      // A context of WebGL takes its time: the first picture does not wait for it.
      const gl = this.getAttribute("webgl");
      if (gl !== "never") requestAnimationFrame(() => setTimeout(() => player.stopped || player.hasten(gl === "always")));
      this.controls();
      this.dispatchEvent(new CustomEvent("load", { detail: { kind: this.field.kind } }));
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.drop();
    const message = error instanceof SineError ? error.message : `this field cannot be drawn (${error.message})`;
    this.canvas.hidden = true;
    this.line.textContent = message;
    this.line.hidden = false;
    this.dispatchEvent(new CustomEvent("error", { detail: { message } }));
  }

  controls() {
    this.off?.();
    this.off = this.player && this.hasAttribute("camera-controls") ? this.player.control(this) : null;
    this.canvas.style.touchAction = this.off ? "none" : "auto";
  }
}

/** Has pages know <sine-field>. */
export const define = (element, name = "sine-field") => customElements.get(name) ?? customElements.define(name, element);
