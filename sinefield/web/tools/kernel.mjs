// The WASM kernel as WebAssembly text: four loops over rows of POINTS floats, four floats at a time. Everything that
// would stand there twelve times is written out by the functions here; wabt makes bytes of it.
import { POINTS } from "../src/plain.js";

const ROW = 4 * POINTS;
const lines = (n, line) => Array.from({ length: n }, (_, i) => line(i)).join("\n");
const f32s = (value) => `(f32x4.splat (f32.const ${value}))`; // shorter than a constant of 16 bytes

/** A loop over `$end` − `$at` bytes of floats at `$at`, four at a time. */
const over = (body) => `
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      ${body}
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (br $next)))`;

/** Horner's rule in $x of coefficients from the highest. */
const horner = (coefficients) =>
  coefficients.slice(1).reduce((sum, c) => `(f32x4.add (f32x4.mul ${sum} (local.get $q)) ${f32s(c)})`, f32s(coefficients[0]));

const TURN = 2 * Math.PI;
const factorial = (n) => (n < 2 ? 1 : n * factorial(n - 1));
/** sin(2π r) / r in powers of r², up to r^12. */
const SINE = [13, 11, 9, 7, 5, 3, 1].map((n) => ((n % 4 === 1 ? 1 : -1) * TURN ** n) / factorial(n));
/** 2^f in powers of f. */
const POWER = [6, 5, 4, 3, 2, 1, 0].map((n) => Math.LN2 ** n / factorial(n));

// Weights lie in blocks of four outputs: block, input, output. Accumulators: output o, points 4 h … 4 h + 3.
const layer = `
  (func (export "layer") (param $w i32) (param $b i32) (param $x i32) (param $y i32) (param $n i32) (param $m i32)
    (local $p i32) (local $k i32) (local $pw i32) (local $px i32) (local $s v128) (local $x0 v128) (local $x1 v128)
    ${lines(8, (i) => `(local $a${i} v128)`)}
    (loop $outputs
      (local.set $p (i32.const 0))
      (loop $points
        ${lines(4, (o) => `
        (local.set $a${2 * o} (v128.load32_splat offset=${4 * o} (local.get $b)))
        (local.set $a${2 * o + 1} (local.get $a${2 * o}))`)}
        (local.set $pw (local.get $w))
        (local.set $px (i32.add (local.get $x) (local.get $p)))
        (local.set $k (local.get $n))
        (loop $inputs
          (local.set $x0 (v128.load (local.get $px)))
          (local.set $x1 (v128.load offset=16 (local.get $px)))
          ${lines(4, (o) => `
          (local.set $s (v128.load32_splat offset=${4 * o} (local.get $pw)))
          (local.set $a${2 * o} (f32x4.add (local.get $a${2 * o}) (f32x4.mul (local.get $s) (local.get $x0))))
          (local.set $a${2 * o + 1} (f32x4.add (local.get $a${2 * o + 1}) (f32x4.mul (local.get $s) (local.get $x1))))`)}
          (local.set $pw (i32.add (local.get $pw) (i32.const 16)))
          (local.set $px (i32.add (local.get $px) (i32.const ${ROW})))
          (br_if $inputs (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
        (local.set $px (i32.add (local.get $y) (local.get $p)))
        ${lines(8, (i) => `(v128.store offset=${(i >> 1) * ROW + (i & 1) * 16} (local.get $px) (local.get $a${i}))`)}
        (br_if $points (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 32))) (i32.const ${ROW}))))
      (local.set $w (local.get $pw))
      (local.set $b (i32.add (local.get $b) (i32.const 16)))
      (local.set $y (i32.add (local.get $y) (i32.const ${4 * ROW})))
      (br_if $outputs (i32.gt_s (local.tee $m (i32.sub (local.get $m) (i32.const 4))) (i32.const 0)))))`;

const rectify = `
  (func (export "rectify") (param $at i32) (param $count i32) (param $leak f32)
    (local $end i32) (local $v v128) (local $l v128)
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 2))))
    (local.set $l (f32x4.splat (local.get $leak)))
    ${over(`(local.set $v (v128.load (local.get $at)))
      (v128.store (local.get $at) (f32x4.max (local.get $v) (f32x4.mul (local.get $v) (local.get $l))))`)})`;

// sin(2π (scale x + shift)): whole turns are taken off before the shift, which is exact where the scale is a power of 2.
const wave = `
  (func (export "wave") (param $x i32) (param $at i32) (param $count i32) (param $scale f32) (param $shift f32)
    (local $end i32) (local $by i32) (local $r v128) (local $q v128) (local $s v128) (local $h v128)
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 2))))
    (local.set $by (i32.sub (local.get $x) (local.get $at)))
    (local.set $s (f32x4.splat (local.get $scale)))
    (local.set $h (f32x4.splat (local.get $shift)))
    ${over(`
      (local.set $r (f32x4.mul (v128.load (i32.add (local.get $at) (local.get $by))) (local.get $s)))
      (local.set $r (f32x4.add (f32x4.sub (local.get $r) (f32x4.nearest (local.get $r))) (local.get $h)))
      (local.set $r (f32x4.sub (local.get $r) (f32x4.nearest (local.get $r))))
      (local.set $q (f32x4.abs (local.get $r)))
      (local.set $r (v128.bitselect (f32x4.min (local.get $q) (f32x4.sub ${f32s(0.5)} (local.get $q)))
        (local.get $r) (v128.const i32x4 0x7fffffff 0x7fffffff 0x7fffffff 0x7fffffff)))
      (local.set $q (f32x4.mul (local.get $r) (local.get $r)))
      (v128.store (local.get $at) (f32x4.mul (local.get $r) ${horner(SINE)}))`)})`;

// 2^(scale x²) in place.
const bell = `
  (func (export "bell") (param $at i32) (param $count i32) (param $scale f32)
    (local $end i32) (local $v v128) (local $q v128) (local $s v128)
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 2))))
    (local.set $s (f32x4.splat (local.get $scale)))
    ${over(`
      (local.set $v (v128.load (local.get $at)))
      (local.set $v (f32x4.max (f32x4.mul (f32x4.mul (local.get $v) (local.get $v)) (local.get $s)) ${f32s(-126)}))
      (local.set $q (f32x4.sub (local.get $v) (f32x4.nearest (local.get $v))))
      (v128.store (local.get $at) (f32x4.mul ${horner(POWER)}
        (i32x4.shl (i32x4.add (i32x4.trunc_sat_f32x4_s (f32x4.nearest (local.get $v)))
          (v128.const i32x4 127 127 127 127)) (i32.const 23))))`)})`;

/** All loops, and those without the bell, which relu networks do not need. */
export const TEXTS = { KERNEL: [layer, rectify, wave, bell], SMALL_KERNEL: [layer, rectify, wave] };
export const textOf = (loops) => `(module (import "a" "m" (memory 1))${loops.join("")})`;
