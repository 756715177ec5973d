// Raw deflate (RFC 1951) with a preset dictionary, which a browser's own DecompressionStream lacks.
import { fail } from "./bytes.js";

const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** Lengths of codes to how many there are of each length, and the symbols in the order of their codes. */
const codes = (lengths) => {
  const counts = new Uint16Array(16);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  const places = new Uint16Array(17);
  let room = 1;
  for (let n = 1; n < 16; n++) {
    places[n + 1] = places[n] + counts[n];
    if ((room = 2 * room - counts[n]) < 0) fail("its packed text is damaged");
  }
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, symbol) => length && (symbols[places[length]++] = symbol));
  return { counts, symbols };
};

/** Base values and extra bits of lengths or distances, `step` symbols for each number of extra bits. */
const ladder = (count, base, step) => {
  const found = [];
  for (let i = 0; i < count; i++) {
    const bits = Math.max(Math.floor(i / step) - 1, 0);
    found.push([base, bits]);
    base += 1 << bits;
  }
  return found;
};

/** All of a stream, at most `limit` bytes; what follows the stream or is cut off it is refused. */
export function inflate(bytes, limit, dictionary = new Uint8Array(0)) {
  const LENGTHS = [...ladder(28, 3, 4), [258, 0]], DISTANCES = ladder(30, 1, 2);
  const start = dictionary.length;
  let out = new Uint8Array(start + Math.min(limit, 4 * bytes.length + 64));
  out.set(dictionary);
  let size = start, at = 0, held = 0, kept = 0;
  const bits = (n) => {
    for (; kept < n; kept += 8) held |= (at < bytes.length ? bytes[at++] : fail("its packed text ends early")) << kept;
    const value = held & ((1 << n) - 1);
    held >>>= n;
    kept -= n;
    return value;
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0, first = 0, place = 0;
    for (let n = 1; n < 16; n++) {
      code |= bits(1);
      if (code - first < counts[n]) return symbols[place + code - first];
      place += counts[n];
      first = (first + counts[n]) << 1;
      code <<= 1;
    }
    return fail("its packed text is damaged");
  };
  const put = (byte) => {
    if (size - start >= limit) fail("its packed text is too long");
    if (size === out.length) {
      const more = new Uint8Array(2 * out.length);
      more.set(out);
      out = more;
    }
    out[size++] = byte;
  };
  const tables = () => {
    const many = bits(5) + 257, far = bits(5) + 1, given = bits(4) + 4, short = new Uint8Array(19);
    for (let i = 0; i < given; i++) short[ORDER[i]] = bits(3);
    const own = codes(short), lengths = new Uint8Array(many + far);
    for (let i = 0; i < lengths.length; ) {
      const s = symbol(own);
      const value = s === 16 && i ? lengths[i - 1] : s < 16 ? s : 0;
      let times = s < 16 ? 1 : s === 18 ? 11 + bits(7) : 3 + bits(s === 16 ? 2 : 3);
      if (i + times > lengths.length || (s === 16 && !i)) fail("its packed text is damaged");
      while (times--) lengths[i++] = value;
    }
    return [codes(lengths.subarray(0, many)), codes(lengths.subarray(many))];
  };
  for (let last = 0; !last; ) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      held = kept = 0;
      const n = bits(16);
      if ((bits(16) ^ n) !== 65535) fail("its packed text is damaged");
      for (let i = 0; i < n; i++) put(bits(8));
      continue;
    }
    if (kind === 3) fail("its packed text is damaged");
    const usual = Uint8Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));
    const [literals, distances] = kind === 2 ? tables() : [codes(usual), codes(new Uint8Array(30).fill(5))];
    for (let s; (s = symbol(literals)) !== 256; ) {
      if (s < 256) {
        put(s);
        continue;
      }
      if (s > 285) fail("its packed text is damaged");
      const [base, extra] = LENGTHS[s - 257], length = base + bits(extra), d = symbol(distances);
      if (d > 29) fail("its packed text is damaged");
      const back = DISTANCES[d][0] + bits(DISTANCES[d][1]);
      if (back > size) fail("its packed text is damaged");
      for (let i = 0; i < length; i++) put(out[size - back]);
    }
  }
  if (at < bytes.length) fail("its packed text has more than it should");
  return out.slice(start, size);
}
