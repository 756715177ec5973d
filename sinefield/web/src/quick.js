// What draws moving pictures by WebGL 2: a shape as triangles, light as voxels. Exact pictures are WASM's.
import { canBake, marchOf, weightsOf } from "./bake.js";
import { Hands } from "./hands.js";
import { meshOf } from "./mesh.js";
import { CLAY, FILL, SUN } from "./light.js";

const SIZES = [64, 128, 192], LARGE = 192, CELLS = 96, SOFTWARE = /swiftshader|llvmpipe|software|basic render/i;

/** A WebGL 2 context on a canvas of its own; null where there is none, or only a software one that is not `forced`. */
const contextOf = (forced) => {
  const gl = document.createElement("canvas").getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const name = info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : gl.getParameter(gl.RENDERER);
  return forced || !SOFTWARE.test(name) ? gl : null;
};

const programOf = (gl, vertex, fragment) => {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, `#version 300 es\nprecision highp float;\n${text}`);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return gl.getProgramParameter(program, gl.LINK_STATUS) ? program : null;
};

/** Whether there are the cores and the memory for the finest voxels. */
const roomy = ({ most }) => most > 2 && (navigator.deviceMemory ?? 8) >= 4;

const eyeOf = (m) => [m[3], m[7], m[11]];

class Quick {
  constructor(gl, program, changed) {
    // early: better pictures of this kind will come so soon that the exact one waits for them.
    Object.assign(this, { gl, program, changed, ready: false, early: false, stopped: () => {} });
    gl.canvas.addEventListener("webglcontextlost", () => {
      this.ready = this.early = false;
      changed();
    });
  }

  uniform(name, ...values) {
    const { gl, program } = this;
    gl[`uniform${values.length}f`](gl.getUniformLocation(program, name), ...values);
  }

  /** Draws a camera's picture onto a 2D context; false while there is nothing to draw. */
  draw(camera, context) {
    if (!this.ready) return false;
    const { gl, program } = this, { width, height, focal, pose } = camera;
    gl.canvas.width = width;
    gl.canvas.height = height;
    gl.viewport(0, 0, width, height);
    gl.useProgram(program);
    gl.uniformMatrix4x3fv(gl.getUniformLocation(program, "pose"), true, pose);
    this.uniform("lens", (2 * focal) / width, (2 * focal) / height);
    this.paint();
    context.drawImage(gl.canvas, 0, 0);
    return true;
  }

  stop() {
    this.stopped();
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

class QuickLight extends Quick {
  constructor(gl, field, changed) {
    const head = `\nlayout(std140) uniform Head { vec4 head[${weightsOf(field.settings)}]; };\n#define W(i) head[i]\n`;
    super(gl, programOf(gl, /* glsl */ `
      out vec2 at;
      void main() { at = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0; gl_Position = vec4(at, 0.0, 1.0); }`, /* glsl */ `
      in vec2 at;
      out vec4 colour;
      uniform mat4x3 pose;
      uniform vec3 background;
      uniform vec2 lens;
      ${marchOf(field, head)}
      void main() {
        vec4 c = march(pose[3], normalize(mat3(pose) * vec3(at / lens, -1.0)));
        colour = vec4(c.xyz + (1.0 - c.a) * background, 1.0);
      }`), changed);
    this.field = field;
    this.early = field.simd;
    const hands = new Hands(field), next = (i) => hands.bake(SIZES[i], i > 0, (found) => {
      this.fill(found);
      this.early &&= !i;
      changed();
      if (i + 1 < SIZES.length && (SIZES[i + 1] < LARGE || roomy(hands))) next(i + 1);
      else hands.stop();
    });
    this.stopped = () => hands.stop();
    if (this.program) setTimeout(() => hands.stopped || next(0));
  }

  fill({ low, voxel, size, shape, bricks, cells, grid, textures, head, step, dims }) {
    const { gl, field, program } = this, b = field.bounds;
    gl.useProgram(program);
    this.textures?.forEach((texture) => gl.deleteTexture(texture));
    this.textures = [];
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const put = (name, filter, sides, inner, format, type, data) => {
      const i = this.textures.length, texture = gl.createTexture();
      gl.activeTexture(gl.TEXTURE0 + i);
      gl.bindTexture(gl.TEXTURE_3D, texture);
      gl.texImage3D(gl.TEXTURE_3D, 0, inner, ...sides, 0, format, type, data);
      for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_3D, way, filter);
      gl.uniform1i(gl.getUniformLocation(program, name), i);
      this.textures.push(texture);
    };
    put("bricks", gl.NEAREST, shape, gl.R16UI, gl.RED_INTEGER, gl.UNSIGNED_SHORT, bricks);
    put("cells", gl.NEAREST, [grid, grid, grid], gl.R8UI, gl.RED_INTEGER, gl.UNSIGNED_BYTE, cells);
    textures.forEach((data, i) => put(`v${i}`, gl.LINEAR, size, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, data));
    gl.bindBufferBase(gl.UNIFORM_BUFFER, 0, gl.createBuffer());
    gl.bufferData(gl.UNIFORM_BUFFER, head, gl.STATIC_DRAW);
    this.uniform("low", ...low);
    this.uniform("voxel", voxel);
    this.uniform("boxLow", ...b.slice(0, 3));
    this.uniform("boxHigh", ...b.slice(3));
    this.uniform("stepSize", step);
    this.uniform("background", ...field.background);
    this.size = Math.max(...dims) - 1;
    this.ready = true;
  }

  paint() {
    this.gl.drawArrays(this.gl.TRIANGLES, 0, 3);
  }
}

class QuickSurface extends Quick {
  constructor(gl, field, changed) {
    super(gl, programOf(gl, /* glsl */ `
      in vec3 position, normal, paint;
      out vec3 n, c;
      uniform mat4x3 pose;
      uniform vec2 lens, span;
      void main() {
        vec3 p = (position - pose[3]) * mat3(pose);
        n = normal;
        c = paint;
        gl_Position = vec4(lens * p.xy, (-p.z * (span.y + span.x) - 2.0 * span.y * span.x) / (span.y - span.x), -p.z);
      }`, /* glsl */ `
      in vec3 n, c;
      out vec4 colour;
      uniform vec3 sun, fill;
      void main() {
        vec3 m = normalize(n);
        float light = 0.54 + 0.2 * (0.5 + 0.5 * m.y) + 0.46 * max(dot(m, sun), 0.0) + 0.14 * max(dot(m, fill), 0.0);
        colour = vec4(min(c * light, 1.0), 1.0);
      }`), changed);
    this.field = field;
    if (!this.program) return;
    const timer = setTimeout(() => {
      this.fill(globalThis.NO_SHAPE ? field.drawer.triangles() : meshOf(field, CELLS));
      changed();
    });
    this.stopped = () => clearTimeout(timer);
  }

  fill({ positions, normals, colours, indices }) {
    const { gl, program } = this;
    gl.useProgram(program);
    for (const [name, data] of Object.entries({ position: positions, normal: normals, paint: colours })) {
      const place = gl.getAttribLocation(program, name);
      if (!data) {
        gl.vertexAttrib3f(place, ...CLAY);
        continue;
      }
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    this.uniform("sun", ...SUN);
    this.uniform("fill", ...FILL);
    gl.clearColor(...this.field.background, 1);
    gl.enable(gl.DEPTH_TEST);
    this.count = indices.length;
    this.ready = true;
  }

  draw(camera, context) {
    const { drawer } = this.field, eye = eyeOf(camera.pose), away = Math.hypot(...eye.map((v, a) => v - (this.field.bounds[a] + this.field.bounds[a + 3]) / 2));
    if (this.ready) {
      this.gl.useProgram(this.program);
      const far = away + 1.1 * drawer.radius;
      this.uniform("span", Math.max(away - 1.1 * drawer.radius, far / 1000), far);
    }
    return super.draw(camera, context);
  }

  paint() {
    const { gl } = this;
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
  }
}

/** What draws a field's moving pictures; `changed` is called whenever it can do so better. Null where WASM alone must. */
export const quickFor = (field, changed, forced = false) => {
  let make = null;
  if (!globalThis.NO_RADIANCE && canBake(field)) make = QuickLight;
  if (!globalThis.NO_SURFACE && (field.kind === "shape" || field.kind === "mesh") && !field.drawer.sheet) make = QuickSurface;
  const gl = make && contextOf(forced);
  if (!gl) return null;
  const quick = new make(gl, field, changed);
  return quick.program ? quick : null;
};
