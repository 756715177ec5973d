// Sources to what browsers load: node tools/build.mjs [--check] with esbuild and wabt in NODE_PATH or node_modules.
// Writes made/sinefield.js (a module), made/sinefield.classic.js (one script) and src/kernel.js (the kernel's bytes).
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { TEXT } from "./kernel.mjs";

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

const made = wabt.parseWat("kernel.wat", TEXT, { simd: true });
const bytes = Buffer.from(made.toBinary({}).buffer);
put("src/kernel.js", `// Made by tools/build.mjs from tools/kernel.mjs: ${bytes.length} bytes of WebAssembly.
export const KERNEL =
  "${bytes.toString("base64").match(/.{1,112}/g).join('" +\n  "')}";
`);

// Shaders are texts of templates after "/* glsl */": what stands there for people alone is left out.
const shorter = {
  name: "glsl",
  setup: (build) => build.onLoad({ filter: /(quick|bake)\.js$/ }, ({ path: file }) => ({
    contents: fs.readFileSync(file, "utf8").replace(/\/\* glsl \*\/ `([^`]*)`/g, (_, text) =>
      `\`${text.replace(/\/\/.*$/gm, "").replace(/\s+/g, " ").replace(/ ?([-+*/=<>(){};,?:|&]) ?/g, "$1")}\``),
  })),
};

const make = async (entry, out, options) => {
  const result = await esbuild.build({
    entryPoints: [path.join(folder, entry)],
    bundle: true, minify: true, write: false, target: "es2022", charset: "utf8", legalComments: "none", plugins: [shorter], ...options,
  });
  put(out, result.outputFiles[0].text);
};
await make("src/index.js", "made/sinefield.js", { format: "esm" });
await make("src/index.js", "made/sinefield.classic.js", { format: "iife", globalName: "sinefield" });
// A page's script has no more than its field needs.
for (const kind of ["shape", "radiance", "image", "full"]) {
  const define = kind === "full" ? {} : { "globalThis.ONLY": `"${kind}"` };
  await make("src/page.js", `made/page.${kind}.js`, { format: "iife", define });
}
if (fs.existsSync(path.join(folder, "src/three.js"))) {
  await make("src/three.js", "made/three.js", { format: "esm", external: ["three", "./sinefield.js"] });
}
if (wrong.length) {
  console.error(`not what the sources give: ${wrong.join(", ")}; run node tools/build.mjs`);
  process.exit(1);
}
