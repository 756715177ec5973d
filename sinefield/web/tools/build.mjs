// Sources to what browsers load: node tools/build.mjs [--check] with esbuild, terser and wabt in SINEFIELD_NODE or node_modules.
// Writes made/sinefield.js (a module), made/sinefield.classic.js (one script) and src/kernel.js (the kernel's bytes).
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { BASE, NAMES } from "../src/settings.js";
import { TEXTS, textOf } from "./kernel.mjs";

const folder = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const from = createRequire(path.join(process.env.SINEFIELD_NODE ?? folder, "index.js"));
const esbuild = from("esbuild"), terser = from("terser"), wabt = await from("wabt")();
const check = process.argv.includes("--check"), wrong = [];

const put = (name, text) => {
  const file = path.join(folder, name);
  if (!check) fs.mkdirSync(path.dirname(file), { recursive: true });
  if (!check) fs.writeFileSync(file, text);
  else if (!fs.existsSync(file) || fs.readFileSync(file, "utf8") !== text) wrong.push(name);
};

const kernels = Object.entries(TEXTS).map(([name, loops]) => {
  const bytes = Buffer.from(wabt.parseWat("kernel.wat", textOf(loops), { simd: true }).toBinary({}).buffer);
  return `/** ${bytes.length} bytes of WebAssembly. */\nexport const ${name} =
  "${bytes.toString("hex").match(/.{1,112}/g).join('" +\n  "')}";\n`;
});
put("src/kernel.js", `// Made by tools/build.mjs from tools/kernel.mjs.\n${kernels.join("")}`);

/** Words of shaders that no uniform has: a page has a letter of each. */
const LOCALS = Object.entries({ march: "M", first: "A", end: "B", light: "L", due: "D", colour: "C", hidden: "I", shape: "S",
  grid: "G", atlas: "T", brick: "K", place: "P", far: "F", cell: "E", sum: "U", rgb: "N" });
/** Shaders are texts of templates after a mark: what stands there for people alone is left out. */
const shaders = (text, short) => text.replace(/\/\* glsl \*\/ `([^`]*)`/g, (_, inner) => {
  const words = short ? LOCALS.reduce((found, [word, letter]) => found.replace(new RegExp(`\\b${word}\\b`, "g"), letter), inner) : inner;
  const lines = words.replace(/\/\/.*$/gm, "").replace(/\s+/g, " ").replace(/ ?([-+*/=<>(){};,?:|&]) ?/g, "$1");
  return `\`${lines.replace(/([\d}]\.)0\b/g, "$1").replace(/\b0(\.\d)/g, "$1")}\``;
});

/** Python has read the file of a page before it wrote it: what may be wrong with one is said in one line for all. */
const DECODER = /(adapter|bake|binary|bytes|camera|coder|container|parts|settings|walk)\.js$/;
/** Parts of classes between "// <" and "// >", for scripts that ask a field; a page draws it. */
const unasked = (text) => text.replace(/^ *\/\/ <[^]*?\/\/ >$/gm, "");
const unsaid = (text) => text.replace(/fail\((`[^`]*`|"[^"]*")\)/g, "fail()");
/** … and behind the checksum, which is `return fail`, nothing is checked again. */
const unchecked = (text) => text.replace(/^( *)if \(.*\) (fail\(.*\);|\{\n *fail\(.*\);\n\1\})\n/gm, "")
  .replace(/\.(varint|signed)\([^()]*\)/g, ".$1()");
/** What is asked of a field's kind, answered for a page of one. */
const ofKind = (text, kind) => text.replace(/\b[\w.]*kind ([!=])== "([a-z]+)"/g, (_, sign, word) => String((word === kind) === (sign === "=")));

const shorter = (kind) => ({
  name: "shorter",
  setup: (build) => build.onLoad({ filter: /src.\w+\.js$/ }, ({ path: file }) => {
    const text = shaders(fs.readFileSync(file, "utf8"), !!kind);
    return { contents: !kind ? text : ofKind(unasked(DECODER.test(file) ? unsaid(unchecked(text)) : text), kind) };
  }),
});

/** Properties that are ours alone, and that no text names: a page has them shorter. */
const OURS = new RegExp(`^(${("activate adapter after ahead apex ask asked azimuth background batches before border bounds box bricks buffers cast cells cellsShape " +
  "change changed chunk coarse coder columns contexts control controls count drawer drawn drop early edge elevation engine exact finish floats " +
  "full hasColours hasSlope hired inputs kernel knows last layers lengths looks middle nested nodes octaves opacities depths dims outputs packed painter " +
  "params picture pixelTime placed planes pointers put quickly radius ranges reaches resize rgb room seed sheet sides sigma signed slots small " +
  "stopped tables textures through timer turn uniform units voxel varint watch workers world zipped zoom").split(" ").join("|")})$`);

const make = async (entry, out, { kind = "", ...options }) => {
  const result = await esbuild.build({
    entryPoints: [path.join(folder, entry)], plugins: [shorter(kind)],
    bundle: true, minify: true, write: false, target: "es2022", charset: "utf8", legalComments: "none", ...(kind && { mangleProps: OURS }), ...options,
  });
  const module = options.format === "esm";
  const { code } = await terser.minify(result.outputFiles[0].text, {
    module, ecma: 2020, compress: { passes: 4, pure_getters: true, keep_fargs: false, unsafe_arrows: true }, format: { ascii_only: false },
  });
  put(out, code);
};
// Words of the sources, of what a script goes without; a page's script has no more than its field needs. What "lean" ones
// lack is in LEAN of sinefield/export/player.py.
const KINDS = ["shape", "radiance", "image", "mesh"];
const WORDS = [...KINDS.map((kind) => `NO_${kind.toUpperCase()}`), "NO_EDITS", "NO_NETWORKS", "NO_SURFACE", "LEAN", "PAGE"];
const UNSEEN = ["levels", "log2_table", "coarsest", "finest"]; // whole numbers of what lean scripts do not draw
const defined = (without, kind = "") => ({
  ...Object.fromEntries(WORDS.map((word) => [`globalThis.${word}`, String(without.includes(word))])),
  "globalThis.ONLY": JSON.stringify(kind),
  "globalThis.SETTINGS": kind ? JSON.stringify(NAMES.map((name) => (name in BASE[kind] && !(without.includes("LEAN") && UNSEEN.includes(name)) ? name : "")).join(" ").trimEnd()) : "undefined",
});

await make("src/index.js", "made/sinefield.js", { format: "esm", define: { ...defined([]), "globalThis.SINEFIELD_URL": "import.meta.url" } });
await make("src/index.js", "made/sinefield.classic.js", { format: "iife", globalName: "sinefield", define: defined([]) });
const without = (kind, ...words) => ["PAGE", ...KINDS.filter((other) => other !== kind).map((other) => `NO_${other.toUpperCase()}`), "NO_EDITS", ...words];
const pages = {
  full: [],
  shape: without("shape"),
  "shape.lean": without("shape", "LEAN"),
  radiance: without("radiance", "NO_SURFACE"),
  "radiance.lean": without("radiance", "NO_SURFACE", "LEAN"),
  image: without("image", "NO_SURFACE"),
  mesh: without("mesh", "NO_NETWORKS"),
};
for (const [name, words] of Object.entries(pages)) {
  const kind = KINDS.find((word) => name.startsWith(word)) ?? "";
  await make("src/page.js", `made/page.${name}.js`, { kind, format: "iife", define: defined(words, kind) });
}
if (fs.existsSync(path.join(folder, "src/three.js"))) {
  await make("src/three.js", "made/three.js", { format: "esm", external: ["three", "./sinefield.js"], define: defined([]) });
}
if (wrong.length) {
  console.error(`not what the sources give: ${wrong.join(", ")}; run node tools/build.mjs`);
  process.exit(1);
}
