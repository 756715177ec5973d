// A memory, and the loops over it: WASM with SIMD where a browser has it and its policy allows it, else plain ones.
import { KERNEL, SMALL_KERNEL } from "./kernel.js";
import { plainKernel } from "./plain.js";

let compiled; // null where it cannot be
const kernelModule = () => {
  if (compiled === undefined) {
    try {
      compiled = new WebAssembly.Module(Uint8Array.from(atob(globalThis.LEAN ? SMALL_KERNEL : KERNEL), (c) => c.charCodeAt(0)));
    } catch {
      compiled = null;
    }
  }
  return compiled;
};

/** A memory for so many floats, filled from the front. */
export class Engine {
  constructor(floats, plain = false) {
    const bytes = 4 * floats, module = plain ? null : kernelModule();
    let buffer;
    if (module) {
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
      this.kernel = new WebAssembly.Instance(module, { a: { m: memory } }).exports;
      buffer = memory.buffer;
    } else {
      buffer = new ArrayBuffer(Math.ceil(bytes / 16) * 16);
      this.kernel = plainKernel(buffer);
    }
    this.simd = !!module;
    this.floats = new Float32Array(buffer);
    this.used = 0;
  }

  /** The address, in bytes, of so many new floats. */
  room(count) {
    this.used += Math.ceil(count / 4) * 4;
    return 4 * (this.used - Math.ceil(count / 4) * 4);
  }
}
