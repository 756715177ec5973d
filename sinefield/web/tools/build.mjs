// Sources to what browsers load: node tools/build.mjs [--check] with esbuild and wabt in NODE_PATH or node_modules.
// Writes made/sinefield.js (a module), made/sinefield.classic.js (one script) and src/kernel.js (the kernel's bytes).
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { TEXTS, textOf } from "./kernel.mjs";

const folder = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const from = createRequire(path.join(process.env.SINEFIELD_NODE ?? folder, "index.js"));
const esbuild = from("esbuild"), wabt = await from("wabt")();
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
  "${bytes.toString("base64").match(/.{1,112}/g).join('" +\n  "')}";\n`;
});
put("src/kernel.js", `// Made by tools/build.mjs from tools/kernel.mjs.\n${kernels.join("")}`);

/** Shaders are texts of templates after a mark: what stands there for people alone is left out. */
const shaders = (text) => text.replace(/\/\* glsl \*\/ `([^`]*)`/g, (_, inner) =>
  `\`${inner.replace(/\/\/.*$/gm, "").replace(/\s+/g, " ").replace(/ ?([-+*/=<>(){};,?:|&]) ?/g, "$1")}\``);

/** Python has read the file of a page before it wrote it: what may be wrong with one is said in one line for all. */
const DECODER = /(adapter|binary|bytes|camera|coder|container|parts|settings|walk)\.js$/;
/** Parts of classes between "// <" and "// >", for scripts that ask a field; a page draws it. */
const unasked = (text) => text.replace(/^ *\/\/ <[^]*?\/\/ >$/gm, "");
const unsaid = (text) => text.replace(/fail\((`[^`]*`|"[^"]*")\)/g, "fail()");

const shorter = (page) => ({
  name: "shorter",
  setup: (build) => build.onLoad({ filter: /src.\w+\.js$/ }, ({ path: file }) => {
    const text = shaders(fs.readFileSync(file, "utf8"));
    return { contents: !page ? text : unasked(DECODER.test(file) ? unsaid(text) : text) };
  }),
});

/** Properties that are ours alone, and that no text names: a page has them shorter. */
const OURS = new RegExp(`^(${("activate adapter after ahead apex ask asked azimuth background batches before border bounds cast cellsShape " +
  "change changed chunk coarse coder contexts control controls count drawer drawn drop edge elevation engine exact finish floats " +
  "full hasColours hasSlope hired inputs knows last lengths looks middle nested octaves opacities depths outputs packed painter " +
  "params paint picture pixelTime placed planes pointers put quickly radius ranges reaches resize room seed sheet sides sigma signed small " +
  "stopped tables textures through timer turn uniform units varint watch workers zipped zoom").split(" ").join("|")})$`);

const make = async (entry, out, { page = false, ...options }) => {
  const result = await esbuild.build({
    entryPoints: [path.join(folder, entry)], plugins: [shorter(page)],
    bundle: true, minify: true, write: false, target: "es2022", charset: "utf8", legalComments: "none", ...(page && { mangleProps: OURS }), ...options,
  });
  put(out, result.outputFiles[0].text);
};
// Words of the sources, of what a script goes without; a page's script has no more than its field needs. What "lean" ones
// lack is in USUAL of src/settings.js.
const KINDS = ["shape", "radiance", "image", "mesh"];
const WORDS = [...KINDS.map((kind) => `NO_${kind.toUpperCase()}`), "NO_EDITS", "NO_NETWORKS", "NO_SURFACE", "LEAN", "PAGE"];
const defined = (without) => Object.fromEntries(WORDS.map((word) => [`globalThis.${word}`, String(without.includes(word))]));

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
  await make("src/page.js", `made/page.${name}.js`, {
    page: words.length > 0, format: "iife", define: defined(words),
  });
}
if (fs.existsSync(path.join(folder, "src/three.js"))) {
  await make("src/three.js", "made/three.js", { format: "esm", external: ["three", "./sinefield.js"], define: defined([]) });
}
if (wrong.length) {
  console.error(`not what the sources give: ${wrong.join(", ")}; run node tools/build.mjs`);
  process.exit(1);
}
