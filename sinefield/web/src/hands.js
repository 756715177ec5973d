// Who evaluates voxels: the page's own thread in short slices, and workers where the page's policy allows any. All take
// chunks from one queue, so that without workers, or when one fails, nothing is lost but time.
import { CHUNK, assembled, baked, planOf, rangesOf, rowOf } from "./bake.js";

const SLICE = 10, NAME = "sinefield";
const { document, navigator = {} } = globalThis;
const script = document?.currentScript;
// A script that holds more than the player would do all of that in each worker: then there are none.
const inline = globalThis.PAGE ? script?.textContent : script?.textContent && /^\s*var sinefield=/.test(script.textContent) ? script.textContent : "";
const address = !globalThis.PAGE && [script ? script.src : globalThis.SINEFIELD_URL].find((url) => /sinefield[^/]*\.js$/.test(url));
let blob;

/** A worker of this very script, or null where none can be. */
const hire = () => {
  try {
    blob ??= inline && URL.createObjectURL(new Blob([inline], { type: "text/javascript" }));
    if (globalThis.PAGE) return new Worker(blob, { name: NAME });
    return blob || address ? new Worker(blob || address, { name: NAME, type: script ? "classic" : "module" }) : null;
  } catch {
    return null;
  }
};

/** Whether this script runs in such a worker. */
export const isHand = () => !document && globalThis.name === NAME;

/** What a worker does: evaluates the nodes that it is told of, of the field that it was told of first. */
export const serve = (fieldOf) => {
  let field;
  globalThis.onmessage = ({ data: { packed, plan, ranges, nodes } }) => {
    field ??= fieldOf(packed);
    const bytes = baked(field, plan, ranges, nodes);
    postMessage(bytes, [bytes.buffer]);
  };
};

export class Hands {
  constructor(field) {
    this.field = field;
    this.workers = [];
    this.hired = this.stopped = false;
  }

  /** How many may work besides the page's own thread. */
  get most() {
    return Math.min((navigator.hardwareConcurrency || 1) - 1, 4);
  }

  /** Bakes; `done(what assembled gives)`. Workers come in where `many` are of use. */
  bake(n, many, done) {
    const { field } = this, plan = planOf(field, n), { nodes } = plan, todo = [];
    this.ranges ??= rangesOf(field, plan); // of the first, coarsest one
    for (let i = 0; i < nodes.length; i += CHUNK) todo.push(i);
    const row = rowOf(field.settings), bytes = new Uint8Array(row * nodes.length);
    let left = todo.length, finished = false;
    const { low, voxel, dims } = plan, where = { low, voxel, dims };
    const put = (i, found) => {
      bytes.set(found, row * i);
      left--;
    };
    const end = () => {
      if (left || finished || this.stopped) return;
      finished = true;
      done(assembled(field, plan, this.ranges, bytes));
    };
    const give = (worker) => {
      const i = todo.pop();
      worker.chunk = i;
      if (i === undefined) return;
      worker.postMessage({ packed: worker.knows ? null : field.packed, plan: where, ranges: this.ranges, nodes: nodes.slice(i, i + CHUNK) });
      worker.knows = true;
    };
    if (many && !this.hired) {
      this.hired = true;
      for (let k = 0; k < this.most; k++) this.workers.push(hire());
      this.workers = this.workers.filter(Boolean);
    }
    for (const worker of this.workers) {
      worker.onmessage = ({ data }) => {
        put(worker.chunk, data);
        give(worker);
        end();
      };
      worker.onerror = (event) => {
        event.preventDefault?.();
        this.workers = this.workers.filter((other) => other !== worker);
        worker.terminate();
        if (worker.chunk !== undefined) todo.push(worker.chunk);
        slice();
      };
      give(worker);
    }
    const slice = () => {
      clearTimeout(this.timer);
      const until = performance.now() + SLICE;
      while (todo.length && !this.stopped && performance.now() < until) {
        const i = todo.shift();
        put(i, baked(field, plan, this.ranges, nodes.subarray(i, i + CHUNK)));
      }
      if (todo.length && !this.stopped) this.timer = setTimeout(slice);
      else if (!this.stopped) end();
    };
    slice();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.workers.forEach((worker) => worker.terminate());
  }
}
