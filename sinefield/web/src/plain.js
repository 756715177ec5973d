// The kernel's four loops in plain JavaScript, for where there is no WASM with SIMD, or a policy forbids it.

/** Points that go through a network at once: a row of a layer's output. */
export const POINTS = 64;

/** The loops over a memory; addresses are in bytes. */
export const plainKernel = (buffer) => {
  const f = new Float32Array(buffer), sums = new Float64Array(POINTS);
  return {
    layer(w, b, x, y, n, m) {
      for (let j = 0; j < m; j++) {
        const at = w / 4 + (j >> 2) * 4 * n + (j & 3);
        sums.fill(f[b / 4 + j]);
        for (let k = 0; k < n; k++) {
          const weight = f[at + 4 * k], row = x / 4 + k * POINTS;
          for (let p = 0; p < POINTS; p++) sums[p] += weight * f[row + p];
        }
        f.set(sums, y / 4 + j * POINTS);
      }
    },
    rectify(at, count, leak) {
      for (let i = at / 4, end = i + count; i < end; i++) if (f[i] < 0) f[i] *= leak;
    },
    wave(x, at, count, scale, shift) {
      const by = (x - at) / 4;
      for (let i = at / 4, end = i + count; i < end; i++) {
        const turns = f[i + by] * scale;
        f[i] = Math.sin(2 * Math.PI * (turns - Math.round(turns) + shift));
      }
    },
    bell: !globalThis.LEAN && ((at, count, scale) => {
      for (let i = at / 4, end = i + count; i < end; i++) f[i] = 2 ** (scale * f[i] * f[i]);
    }),
  };
};
