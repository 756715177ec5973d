// <sine-field src="toys.sine" camera-controls>: a field in a page, in the manner of an image.
import { SineError } from "./bytes.js";
import { FILL, Stage, make } from "./stage.js";

const MAX_FILE = 256 << 20;
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export class SineFieldElement extends Stage {
  static observedAttributes = [...Stage.observedAttributes, "src", "poster", "auto-rotate"];

  #round = 0;
  #seen = false;

  constructor() {
    super();
    this.image = make("img", `${FILL}object-fit:contain`, { hidden: true, alt: "" });
    this.shadowRoot.append(this.image);
  }

  connectedCallback() {
    super.connectedCallback();
    const near = new IntersectionObserver(([entry]) => {
      if (entry.isIntersecting && !this.#seen) {
        this.#seen = true;
        this.#load();
      }
    }, { rootMargin: "200px" });
    near.observe(this);
    this.watch.push(near);
    this.#tell();
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.#seen = false;
  }

  attributeChangedCallback(name) {
    if (name === "src") this.#seen && this.#load();
    else if (name === "auto-rotate") this.#rotate();
    else if (name === "poster") this.#tell();
    else super.attributeChangedCallback(name);
  }

  /** The picture that stands here until the field does. */
  #tell() {
    const poster = this.getAttribute("poster");
    this.image.hidden = !poster || !!this.player || !this.line.hidden;
    if (poster) this.image.src = poster;
  }

  drop() {
    this.#round++;
    cancelAnimationFrame(this.spin);
    super.drop();
  }

  async #load() {
    const src = this.getAttribute("src");
    if (!src) return;
    this.drop();
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

  show(bytes, options) {
    this.#seen = true;
    super.show(bytes, options);
    this.#rotate();
    this.#tell();
  }

  fail(error) {
    super.fail(error);
    this.#tell();
  }

  #rotate() {
    cancelAnimationFrame(this.spin);
    if (!this.player || !this.hasAttribute("auto-rotate") || this.field.kind === "image" || calm()) return;
    const turn = () => {
      if (!this.player.pointers.size) this.player.turn(-0.5, 0);
      this.spin = requestAnimationFrame(turn);
    };
    turn();
  }
}
