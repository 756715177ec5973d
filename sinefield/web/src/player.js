// A field in a canvas: what turns and zooms it, a quick picture while it moves, the exact one when it rests.
import { orbitPose } from "./camera.js";
import { quickFor } from "./quick.js";

const REST = 120, SLICE = 24, FRAME = 30, MOST_PIXELS = 2 ** 21, TURN = 0.008;

/** Where a camera begins: {centre, up, distance, azimuth, elevation, focal}, focal in shorter sides of the picture. */
const startOf = (field) => {
  if (!globalThis.NO_IMAGE && field.kind === "image") return { centre: [0, 0, 0], distance: 1 };
  const b = field.bounds, v = field.view;
  if (globalThis.ONLY === "radiance" || (!globalThis.NO_RADIANCE && v)) {
    const [, , , , , , distance, degrees, focal, width, height] = v;
    const near = !globalThis.LEAN && field.settings.space === "ndc" ? Math.PI / 2 : 0;
    return {
      centre: [v[0], v[1], v[2]], up: [v[3], v[4], v[5]], distance, azimuth: near, elevation: (degrees * Math.PI) / 180,
      focal: (focal * width) / Math.min(width, height),
    };
  }
  const radius = Math.hypot(b[3] - b[0], b[4] - b[1], b[5] - b[2]) / 2;
  return {
    centre: [0, 1, 2].map((a) => (b[a] + b[a + 3]) / 2), up: [0, 1, 0], distance: radius * Math.hypot(2.7, 1) * 1.02,
    azimuth: 0.9, elevation: 0.35, focal: 1.35,
  };
};

export class Player {
  /** `drawn` is called after each picture. */
  constructor(canvas, field, { drawn = () => {} } = {}) {
    Object.assign(this, { canvas, field, drawn, quick: null, stopped: false });
    this.context = canvas.getContext("2d");
    this.start = startOf(field);
    this.small = document.createElement("canvas");
    this.pixelTime = 0.02; // milliseconds a pixel of an exact picture takes, as measured
    this.pointers = new Map();
    this.view = { ...this.start, centre: [...this.start.centre] };
  }

  /** The camera of a picture of width × height pixels. */
  camera(width, height) {
    const { view } = this;
    if (!globalThis.NO_IMAGE && this.field.kind === "image") {
      const [w, h] = this.field.size, fit = Math.max(w / width, h / height) * (2 / Math.max(w, h));
      return { width, height, centre: view.centre, scale: fit * view.distance };
    }
    return { width, height, focal: view.focal * Math.min(width, height), pose: orbitPose(view) };
  }

  resize() {
    const { canvas } = this, ratio = globalThis.devicePixelRatio || 1;
    const wide = Math.max(canvas.clientWidth, 1), tall = Math.max(canvas.clientHeight, 1);
    const by = Math.min(ratio, Math.sqrt(MOST_PIXELS / (wide * tall)));
    const width = Math.max(Math.round(wide * by), 1), height = Math.max(Math.round(tall * by), 1);
    if (this.size === `${width} ${height}`) return; // the observer's first call
    this.size = `${width} ${height}`;
    Object.assign(canvas, { width, height });
    this.change();
  }

  reset() {
    this.view = { ...this.start, centre: [...this.start.centre] };
    this.change();
  }

  /** Turns by pixels; of an image moves it. */
  turn(dx, dy) {
    const { view } = this;
    if (!globalThis.NO_IMAGE && this.field.kind === "image") {
      const { scale } = this.camera(this.canvas.clientWidth, this.canvas.clientHeight);
      view.centre = [view.centre[0] - dx * scale, view.centre[1] - dy * scale, 0];
    } else {
      view.azimuth -= dx * TURN;
      view.elevation = Math.min(Math.max(view.elevation + dy * TURN, -1.55), 1.55);
    }
    this.change();
  }

  zoom(by) {
    const { view, start } = this;
    view.distance = Math.min(Math.max(view.distance * by, start.distance / 50), start.distance * 8);
    this.change();
  }

  /** Something moved: a quick picture now, the exact one when it rests. */
  change() {
    clearTimeout(this.timer);
    this.exact?.return();
    this.exact = null;
    if (!this.asked) this.asked = requestAnimationFrame(() => this.quickly());
    this.timer = setTimeout(() => this.exactly(), REST);
  }

  quickly() {
    this.asked = 0;
    const { width, height } = this.canvas;
    if (this.quick?.draw(this.camera(width, height), this.context)) return this.drawn("quick");
    const scale = Math.max(Math.sqrt((width * height * this.pixelTime) / FRAME), 1);
    this.finish(this.picture(Math.ceil(width / scale), Math.ceil(height / scale)));
    this.drawn("moving");
    return undefined;
  }

  /** Pictures of a half, then all of the pixels, in slices of time. */
  exactly() {
    if (this.quick?.early) return undefined;
    // Triangles are a mesh's exact picture.
    if (!globalThis.NO_MESH && this.field.kind === "mesh" && this.quick?.draw(this.camera(this.canvas.width, this.canvas.height), this.context)) return this.drawn("exact");
    const { width, height } = this.canvas, scales = this.quick?.ready ? [1] : [4, 2, 1];
    const work = function* () {
      for (const scale of scales) {
        yield* this.picture(Math.ceil(width / scale), Math.ceil(height / scale));
        if (scale === 1) this.drawn("exact");
      }
    };
    const going = (this.exact = work.call(this));
    const slice = () => {
      const end = performance.now() + SLICE;
      while (this.exact === going && performance.now() < end) if (going.next().done) return;
      if (this.exact === going) setTimeout(slice);
    };
    return slice();
  }

  finish(work) {
    while (!work.next().done);
  }

  /** Draws a picture of so many pixels over the whole canvas, a few rows a step. */
  *picture(width, height) {
    const { field, context, canvas, small } = this, camera = this.camera(width, height), out = field.picture(width, height);
    const step = Math.max(Math.floor(1024 / width), 1), image = new ImageData(width, height), back = field.background;
    let spent = 0;
    for (let row = 0; row < height; row += step) {
      const begin = performance.now(), last = Math.min(row + step, height);
      field.drawer.rows(camera, row, last, out);
      for (let i = row * width; i < last * width; i++) {
        for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * (out.colours[3 * i + c] + (1 - out.opacities[i]) * back[c]) + 0.5;
        image.data[4 * i + 3] = 255;
      }
      spent += performance.now() - begin;
      yield;
    }
    this.pixelTime = spent / (width * height);
    small.width = width;
    small.height = height;
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  /** Mouse, touch, wheel and keys; returns what takes them off again. */
  control(element) {
    const off = new AbortController(), on = (name, act, options) => element.addEventListener(name, act, { signal: off.signal, ...options });
    const { pointers } = this, apart = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    on("pointerdown", (e) => {
      element.setPointerCapture(e.pointerId);
      pointers.set(e.pointerId, [e.clientX, e.clientY]);
    });
    on("pointermove", (e) => {
      const was = pointers.get(e.pointerId);
      if (!was) return;
      const before = pointers.size > 1 && apart();
      pointers.set(e.pointerId, [e.clientX, e.clientY]);
      if (before) this.zoom(before / Math.max(apart(), 1));
      this.turn((e.clientX - was[0]) / pointers.size, (e.clientY - was[1]) / pointers.size);
    });
    for (const name of ["pointerup", "pointercancel"]) on(name, (e) => pointers.delete(e.pointerId));
    on("wheel", (e) => {
      // Of a page that is scrolled the wheel is the reader's, until the field is clicked.
      if (document.activeElement !== element) return;
      e.preventDefault();
      this.zoom(Math.exp(Math.min(Math.max(e.deltaY, -60), 60) * 0.004));
    }, { passive: false });
    on("dblclick", () => this.reset());
    const moves = { ArrowLeft: [12, 0], ArrowRight: [-12, 0], ArrowUp: [0, 12], ArrowDown: [0, -12] };
    on("keydown", (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey) return;
      if (moves[e.key]) this.turn(...moves[e.key]);
      else if (e.key === "+" || e.key === "=" || e.key === "-") this.zoom(e.key === "-" ? 1.1 : 0.9);
      else if (e.key === "Home") this.reset();
      else if (e.key === "f") this.full(element);
      else return;
      e.preventDefault();
    });
    return () => off.abort();
  }

  full(element) {
    if (document.fullscreenElement) document.exitFullscreen();
    else element.requestFullscreen?.().catch(() => {});
  }

  /** Has moving pictures drawn by WebGL, where there is any; in software only where `forced`. */
  hasten(forced) {
    // What the exact picture has begun to replace is not drawn again; a mesh's triangles are its exact picture.
    const better = () => this.stopped || (this.exact && this.field.kind !== "mesh") || this.change();
    this.quick = quickFor(this.field, better, forced);
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    cancelAnimationFrame(this.asked);
    this.exact = null;
    this.quick?.stop();
  }
}
