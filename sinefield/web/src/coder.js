// Frequency tables, the coder's 64-bit state in two halves, and the grid's bits. Every number is exact: a product of
// more than 53 bits is made of parts that have fewer.
import { fail } from "./bytes.js";

const ONE = 2 ** 32, PRECISION = 2 ** 24;
// 2^(32 − i/8), rounded: square roots are the same on every machine, and none is near a half.
const ROOTS = /* @__PURE__ */ Array.from({ length: 8 }, (_, i) => Math.round(ONE * Math.sqrt(Math.sqrt(Math.sqrt(2 ** -i)))));
const root = (steps) => Math.floor(ROOTS[steps % 8] / 2 ** (steps >> 3));
const ratio = (i) => (i === 255 ? ONE : i < 128 ? ONE - root(i + 8) : root(i - 120));

/** floor(a b / 2^32) of whole numbers up to 2^32. */
const high = (a, b) => {
  const low = b % 65536;
  return Math.floor((a * ((b - low) / 65536) + Math.floor((a * low) / 65536)) / 65536);
};

/** floor(w k / all), k up to 2^24: divided in floating point, and once more exactly where that may be off by one. */
const share = (w, k, all) => {
  const about = (w * k) / all, whole = Math.floor(about), part = about - whole;
  return part > 1e-6 && part < 1 - 1e-6 ? whole : Number((BigInt(w) * BigInt(k)) / BigInt(all));
};

/** Sums of the frequencies before each symbol: n + 1 numbers from 0 to 2^24. */
export const sumsOf = (n, centre, slope, bend) => {
  const reach = Math.max(centre, n - 1 - centre), side = new Float64Array(reach + 1), c = ratio(bend);
  let w = ONE, q = ratio(slope), all = 0;
  for (let i = 0; i <= reach && w; i++) {
    side[i] = w;
    all += w * ((i <= centre) + (i && i < n - centre));
    w = high(w, q);
    q = high(q, c);
  }
  let given = 0;
  const counts = new Uint32Array(reach + 1);
  for (let i = 0; i <= reach; i++) {
    counts[i] = (i && side[i] === side[i - 1] ? counts[i - 1] - 1 : share(side[i], PRECISION - n, all)) + 1;
    given += counts[i] * ((i <= centre) + (i && i < n - centre));
  }
  const sums = new Uint32Array(n + 1);
  for (let i = 0; i < n; i++) {
    sums[i + 1] = sums[i] + counts[Math.abs(i - centre)] + (i === centre ? PRECISION - given : 0);
  }
  return sums;
};

/** Asymmetric numeral systems, from the last word to the first. */
export class Decoder {
  constructor(bytes) {
    if (bytes.length % 4) fail("its coded part is not whole words; the file is damaged");
    this.words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.left = bytes.length;
    if (this.left && !this.words.getUint32(this.left - 4, true)) fail("its coded part ends in an empty word");
    this.high = this.low = 0;
    this.fill();
    this.fill();
  }

  fill() {
    if (this.high || !this.left) return;
    this.high = this.low;
    this.low = this.words.getUint32((this.left -= 4), true);
  }

  /** To the state after a symbol of frequency f, of which `rest` is the place within it. */
  step(f, rest) {
    const state = this.high * 256 + (this.low >>> 24), low = state % 65536, product = ((state - low) / 65536) * f;
    const upper = Math.floor(product / 65536), under = (product - upper * 65536) * 65536 + low * f + rest;
    this.high = upper + Math.floor(under / ONE);
    this.low = under % ONE;
    this.fill();
  }

  /** `count` symbols under one table into `put(symbol)`. */
  take(count, sums, put) {
    const n = sums.length - 1;
    for (let i = 0; i < count; i++) {
      const q = this.low & 0xffffff;
      let a = 0, b = n;
      while (b - a > 1) {
        const middle = (a + b) >> 1;
        if (sums[middle] <= q) a = middle;
        else b = middle;
      }
      this.step(sums[a + 1] - sums[a], q - sums[a]);
      put(a);
    }
  }

  /** One bit that is 1 with a frequency. */
  bit(ones) {
    const q = this.low & 0xffffff, zeros = PRECISION - ones;
    if (q < zeros) this.step(zeros, q);
    else this.step(ones, q - zeros);
    return q < zeros ? 0 : 1;
  }

  finish() {
    if (this.high || this.low || this.left) fail("its coded part has more than the field needs; the file is damaged");
  }
}

/** A block of bits, x slowest, into its place in a grid: `at` the first index along each axis, `size` of the block. */
export const gridIn = (decoder, table, cells, shape, at, size) => {
  const ones = Array.from(table, (v) => {
    const rare = Math.max(Math.floor(root((v & 127) + 8) / 256), 1);
    return v < 128 ? rare : PRECISION - rare;
  });
  const [nx, ny, nz] = size, wide = nz + 2;
  let before = new Uint8Array((ny + 2) * wide), plane = new Uint8Array((ny + 2) * wide);
  for (let x = 0; x < nx; x++) {
    for (let y = 1; y <= ny; y++) {
      const out = ((at[0] + x) * shape[1] + at[1] + y - 1) * shape[2] + at[2] - 1;
      for (let z = 1, i = y * wide + 1; z <= nz; z++, i++) {
        const beside = before[i - wide] + before[i + wide] + before[i - 1] + before[i + 1], j = i - wide;
        const context = (5 * before[i] + beside) * 6 + 3 * plane[j] + plane[j - 1] + plane[j + 1];
        cells[out + z] = plane[i] = decoder.bit(ones[context]);
      }
    }
    [before, plane] = [plane, before.fill(0)];
  }
};
