// A memory, and the loops over it: WASM with SIMD where a browser has it and its policy allows it, else plain ones.
import { KERNEL, SMALL_KERNEL } from "./kernel.js";
import { plainKernel } from "./plain.js";

let compiled; // null where it cannot be
const kernelModule = () => {
  if (compiled === undefined) {
    try {
      compiled = new WebAssembly.Module(Uint8Array.from((globalThis.LEAN ? SMALL_KERNEL : KERNEL).match(/../g), (byte) => parseInt(byte, 16)));
    } catch {
      compiled = null;
    }
  }
  return compiled;
};

/** A memory that is filled from the front: first what it needs `room` for, then `start`. */
export class Engine {
  used = 0;

  start(plain) {
    const bytes = 4 * this.used, module = plain ? null : kernelModule();
    let buffer;
    if (module) {
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
      this.kernel = new WebAssembly.Instance(module, { a: { m: memory } }).exports;
      buffer = memory.buffer;
    } else {
      buffer = new ArrayBuffer(bytes);
      this.kernel = plainKernel(buffer);
    }
    this.simd = !!module;
    this.floats = new Float32Array(buffer);
  }

  /** The address, in bytes, of so many new floats, a multiple of four. */
  room(count) {
    this.used += count;
    return 4 * (this.used - count);
  }
}
