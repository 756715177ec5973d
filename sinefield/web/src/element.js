// <sine-field src="toys.sine" camera-controls>: a field in a page, in the manner of an image.
import { SineError } from "./bytes.js";
import { loadSine } from "./field.js";
import { Player } from "./player.js";
import { quickFor } from "./quick.js";

const MAX_FILE = 256 << 20;
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** An element with style set by script, which every policy allows. */
const make = (name, style, content = {}) => Object.assign(Object.assign(document.createElement(name), content), { style });

// Where there is no page, as in Node, fields can still be asked.
const Base = globalThis.HTMLElement ?? class {};

export class SineFieldElement extends Base {
  static observedAttributes = ["src", "alt", "camera-controls", "poster", "auto-rotate"];

  #player = null;
  #watch = [];
  #round = 0;
  #seen = false;

  constructor() {
    super();
    const shadow = this.attachShadow({ mode: "open" });
    const fill = "position:absolute;inset:0;width:100%;height:100%;";
    this.canvas = make("canvas", `${fill}display:block;touch-action:none`);
    this.image = make("img", `${fill}object-fit:contain`, { hidden: true, alt: "" });
    this.line = make("p", `${fill}margin:0;padding:1em;box-sizing:border-box;font:inherit;overflow-wrap:anywhere`, { hidden: true });
    this.line.setAttribute("role", "alert");
    shadow.append(this.canvas, this.image, this.line);
    this.field = null;
  }

  connectedCallback() {
    const { style } = this;
    style.display ||= "block";
    style.position ||= "relative";
    style.minHeight ||= "12em";
    style.overflow ||= "hidden";
    if (!this.hasAttribute("role")) this.setAttribute("role", "img");
    if (!this.hasAttribute("tabindex")) this.tabIndex = 0;
    const size = new ResizeObserver(() => this.#player?.resize());
    size.observe(this);
    const near = new IntersectionObserver(([entry]) => {
      if (entry.isIntersecting && !this.#seen) {
        this.#seen = true;
        this.#load();
      }
    }, { rootMargin: "200px" });
    near.observe(this);
    this.#watch = [size, near];
    this.#tell();
  }

  disconnectedCallback() {
    this.#watch.forEach((watch) => watch.disconnect());
    this.#drop();
    this.#seen = false;
  }

  attributeChangedCallback(name) {
    if (name === "src" && this.#seen) this.#load();
    else if (name === "camera-controls") this.#controls();
    else if (name === "auto-rotate") this.#rotate();
    else this.#tell();
  }

  /** What a screen reader says, and the picture that stands here until the field does. */
  #tell() {
    this.setAttribute("aria-label", this.getAttribute("alt") ?? "a neural field");
    const poster = this.getAttribute("poster");
    this.image.hidden = !poster || !!this.#player;
    if (poster) this.image.src = poster;
  }

  #drop() {
    this.#round++;
    this.off?.();
    cancelAnimationFrame(this.spin);
    this.#player?.stop();
    this.#player = this.field = null;
  }

  async #load() {
    const src = this.getAttribute("src");
    if (!src) return;
    this.#drop();
    const round = this.#round;
    try {
      const answer = await fetch(src).catch(() => null);
      if (!answer?.ok) throw new SineError(`${src}: cannot be fetched${answer ? ` (${answer.status})` : ""}`);
      if (answer.headers.get("content-length") > MAX_FILE) throw new SineError(`${src}: is larger than 256 MiB`);
      const bytes = await answer.arrayBuffer();
      if (round === this.#round) this.show(bytes);
    } catch (error) {
      if (round === this.#round) this.fail(error);
    }
  }

  /** Draws a file's bytes; what is wrong with them is told in the element's place, and by its event. */
  show(bytes, options) {
    this.#drop();
    this.#seen = true;
    try {
      this.field = loadSine(bytes, options);
      this.line.hidden = true;
      this.canvas.hidden = false;
      const gl = this.getAttribute("webgl");
      const quick = gl === "never" ? null : quickFor(this.field, () => this.#player?.change(), gl === "always");
      this.#player = new Player(this.canvas, this.field, {
        quick, drawn: (how) => this.dispatchEvent(new CustomEvent("draw", { detail: how })),
      });
      this.#player.resize();
      this.#controls();
      this.#rotate();
      this.#tell();
      this.dispatchEvent(new CustomEvent("load", { detail: { kind: this.field.kind } }));
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.#drop();
    const message = error instanceof SineError ? error.message : `this field cannot be drawn (${error.message})`;
    this.canvas.hidden = this.image.hidden = true;
    this.line.textContent = message;
    this.line.hidden = false;
    this.dispatchEvent(new CustomEvent("error", { detail: { message } }));
  }

  get player() {
    return this.#player;
  }

  #controls() {
    this.off?.();
    this.off = this.#player && this.hasAttribute("camera-controls") ? this.#player.control(this) : null;
    this.canvas.style.touchAction = this.off ? "none" : "auto";
  }

  #rotate() {
    cancelAnimationFrame(this.spin);
    if (!this.#player || !this.hasAttribute("auto-rotate") || this.field.kind === "image" || calm()) return;
    const turn = () => {
      if (!this.#player.pointers.size) this.#player.turn(-0.5, 0);
      this.spin = requestAnimationFrame(turn);
    };
    turn();
  }
}

/** Has pages know <sine-field>. */
export const define = (name = "sine-field") => customElements.get(name) ?? customElements.define(name, SineFieldElement);
