// Bytes from front to back, and the whole numbers and texts in them. docs/format.md is the text of the format.

/** What is wrong with a file, or with what is asked of a field, in one line. */
export class SineError extends Error {
  constructor(message) {
    super(message);
    this.name = "SineError";
  }
}

export const fail = (message = "the file is damaged; make it again") => {
  throw new SineError(message);
};

const UTF8 = /* @__PURE__ */ new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8 as text; what is none is refused. */
export const textOf = (bytes) => {
  try {
    return UTF8.decode(bytes);
  } catch {
    return fail("a text is no UTF-8; the file is damaged");
  }
};

export class Reader {
  constructor(bytes, version) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.version = version;
    this.at = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  take(n) {
    if (n > this.left) fail("it ends too early; copy the file again");
    this.at += n;
    return this.bytes.subarray(this.at - n, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  /** A whole number of at most `limit`; beyond 2^53, which notes alone may have, it is rounded. */
  varint(limit) {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      if (shift > 63) fail("a number is too long; the file is damaged");
      const byte = this.byte();
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) break;
    }
    if (value > limit) fail(`a number is ${value}, at most ${limit} can be; the file is damaged`);
    return value;
  }

  signed(limit) {
    const value = this.varint(2 * limit + 1);
    return value % 2 ? -(value + 1) / 2 : value / 2;
  }

  float32() {
    this.take(4);
    return this.view.getFloat32(this.at - 4, true);
  }

  float64() {
    this.take(8);
    return this.view.getFloat64(this.at - 8, true);
  }

  /** A float32 as the shortest decimal that rounds to it: 0.03 is to be 0.03 again. */
  number() {
    const value = this.float32();
    for (let digits = 1; digits < 10 && Number.isFinite(value); digits++) {
      const short = Number(value.toPrecision(digits));
      if (Math.fround(short) === value) return short;
    }
    return value;
  }

  // < of notes, edits and newer files
  text(limit) {
    return textOf(this.take(this.varint(limit)));
  }

  name() {
    const name = this.text(64);
    if (!name || /[\p{C}\p{Zl}\p{Zp}]/u.test(name)) fail("a name is empty or cannot be shown; the file is damaged");
    return name;
  }
  // >

  choice(words) {
    const place = this.byte();
    if (!globalThis.PAGE && place === 255 && this.version > 1) return this.name();
    return globalThis.PAGE || place < words.length ? words[place] : fail(`choice ${place} is unknown; a newer player may know it`);
  }
}
