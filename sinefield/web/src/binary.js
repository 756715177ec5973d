// Single bits from bytes: an adaptive binary range coder in whole numbers. docs/format.md, "Meshes", is the text.

const HALF = 2 ** 15, LEAST = 2 ** 9, MOST = 2 ** 16 - 2 ** 9, SLOWEST = 60;

export class Bits {
  constructor(bytes) {
    this.bytes = bytes;
    this.contexts = new Map();
    this.span = 2 ** 32 - 1;
    this.value = this.at = 0;
    for (let i = 0; i < 4; i++) this.value = this.value * 256 + this.next();
  }

  /** The next byte; zeros behind the end. */
  next() {
    return this.bytes[this.at++] ?? 0;
  }

  context(key) {
    if (!this.contexts.has(key)) this.contexts.set(key, { chance: HALF, seen: 0 });
    return this.contexts.get(key);
  }

  /** The next bit, whose chance is the mean of its contexts'; even without one. */
  bit(...keys) {
    const contexts = keys.map((key) => this.context(key)), sum = contexts.reduce((all, { chance }) => all + chance, 0);
    const share = Math.floor(this.span / 65536) * (keys.length ? Math.floor(sum / keys.length) : HALF), bit = this.value < share ? 1 : 0;
    if (bit) this.span = share;
    else {
      this.value -= share;
      this.span -= share;
    }
    for (const c of contexts) {
      c.chance = Math.min(Math.max(c.chance + Math.floor((2 * (65536 * bit - c.chance)) / (2 * c.seen + 3)), LEAST), MOST);
      c.seen = Math.min(c.seen + 1, SLOWEST);
    }
    for (; this.span < 2 ** 24; this.span *= 256) this.value = this.value * 256 + this.next();
    return bit;
  }

  /** Whether all bytes were needed. */
  get done() {
    return this.at >= this.bytes.length;
  }
}
