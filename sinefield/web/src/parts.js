// What a field has beside settings and tensors: its box, its size, its camera path, its frame.
import { fail } from "./bytes.js";

const floats = (reader, n) => Float32Array.from({ length: n }, () => reader.float32());

const isEmpty = (box) => {
  const sides = [0, 1, 2].map((a) => box[a + 3] - box[a]);
  return !box.every(Number.isFinite) || !sides.every((side) => side >= 0) || !(Math.max(...sides) > 0);
};

/** xmin ymin zmin xmax ymax zmax. */
export const boxIn = (reader) => {
  const wide = reader.byte();
  if (wide > 1) fail("its box is of an unknown form");
  const box = Float64Array.from({ length: 6 }, () => (wide ? reader.float64() : reader.float32()));
  if (isEmpty(box)) fail("its box is empty or not finite");
  return box;
};

const canBeFlown = (view) => {
  const [width, height] = view.subarray(9);
  return view.every(Number.isFinite) && (view[3] || view[4] || view[5]) && view[6] > 0 && Math.abs(view[7]) < 90 &&
    width >= 1 && height >= 1 && width <= 16384 && height <= 16384;
};

const viewIn = (reader) => {
  const view = floats(reader, 11);
  if (!canBeFlown(view)) fail("its camera path cannot be flown; make it again");
  return view;
};

const frameIn = (reader) => {
  const frame = floats(reader, 15);
  if (!frame.every((v) => Math.abs(v) < 1e9) || !(frame[12] > 0 && frame[13] > 0) || frame[14] < 0) {
    fail("its frame is no camera's");
  }
  return frame;
};

/** The parts that a kind has, in their order. */
export const partsIn = (kind, settings, reader) => {
  if (!globalThis.NO_EDITS && kind === "adapter") return {};
  if (!globalThis.NO_EDITS && kind === "shared") {
    reader.varint(0); // it has no arrays
    return {};
  }
  if (!globalThis.NO_IMAGE && kind === "image") {
    const size = [reader.varint(16384), reader.varint(16384)];
    return size[0] && size[1] ? { size } : fail("its image has no pixels");
  }
  const parts = { box: boxIn(reader) };
  if (!globalThis.NO_RADIANCE && kind === "radiance") {
    parts.background = Float32Array.from(reader.take(3), (v) => v / 255);
    parts.view = viewIn(reader);
    if (!globalThis.LEAN && settings.space !== "box") parts.frame = frameIn(reader);
  }
  return parts;
};
