// Questions to fields: node ask.mjs MODULE < JSON, a list of {file, edits, plain, ask: {name: [points, …]}, camera, params}.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const { loadSine } = await import(pathToFileURL(process.argv[2]));
const floats = (values) => Float64Array.from(values.flat());
const plain = (values) => Array.from(values);
const answers = JSON.parse(fs.readFileSync(0, "utf8")).map(({ file, edits = [], plain: without = false, ask = {}, camera, params = [], repeat = 1 }) => {
  const read = (path) => new Uint8Array(fs.readFileSync(path));
  const field = loadSine(read(file), { edits: edits.map(read), plain: without });
  const found = { kind: field.kind, bounds: field.bounds, simd: field.simd };
  for (const [name, given] of Object.entries(ask)) found[name] = plain(field[name](...given.map(floats)));
  for (const name of params) found[name] = plain(field.params.get(name).values);
  if (camera) {
    let begin, picture;
    for (let i = 0; i < repeat; i++) {
      begin = process.cpuUsage();
      picture = field.render(camera);
    }
    const { user, system } = process.cpuUsage(begin);
    const { colours, opacities, depths } = picture;
    Object.assign(found, { colours: plain(colours), opacities: plain(opacities), seconds: (user + system) / 1e6 });
    found.depths = Array.from(depths, (v) => (Number.isFinite(v) ? v : -1));
  }
  return found;
});
console.log(JSON.stringify(answers));
