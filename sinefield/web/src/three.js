// three.js: a shape as a mesh, a radiance field as an object that draws itself among others, with depth.
import * as THREE from "three";
import { SineError, bake, loadSine, meshOf } from "./sinefield.js";
import { canBake, marchOf } from "./bake.js";

/** Loads `.sine` files: `load`, `loadAsync`, `parse`, in the manner of three's own loaders. */
export class SineLoader extends THREE.Loader {
  constructor(manager) {
    super(manager);
    this.resolution = { mesh: 96, light: 96 };
  }

  /** Cells of a mesh, and voxels of a radiance field, along the longest side. */
  setResolution({ mesh = 96, light = 96 }) {
    this.resolution = { mesh, light };
    return this;
  }

  load(url, onLoad, onProgress, onError) {
    const files = new THREE.FileLoader(this.manager);
    files.setPath(this.path).setResponseType("arraybuffer").setRequestHeader(this.requestHeader).setWithCredentials(this.withCredentials);
    files.load(url, (data) => {
      let object;
      try {
        object = this.parse(data);
      } catch (error) {
        (onError ?? console.error)(error);
        this.manager.itemError(url);
        return;
      }
      onLoad(object);
    }, onProgress, onError);
  }

  /** A file's bytes as a THREE.Mesh; its `userData.field` is the field. Raises a SineError for what cannot be shown. */
  parse(data) {
    const field = loadSine(data);
    if (field.kind === "shape" || field.kind === "mesh") return surface(field, this.resolution.mesh);
    if (canBake(field)) return light(field, this.resolution.light);
    throw new SineError(`a field of kind ${field.kind}${field.settings.space ? ` in space ${field.settings.space}` : ""} has no object in three.js`);
  }
}

const surface = (field, resolution) => {
  const { positions, normals, colours, indices } = meshOf(field, resolution), geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
  geometry.setAttribute("normal", new THREE.BufferAttribute(normals, 3));
  geometry.setIndex(new THREE.BufferAttribute(indices, 1));
  if (colours) {
    // three computes with linear colours.
    const linear = colours.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    geometry.setAttribute("color", new THREE.BufferAttribute(linear, 3));
  }
  const side = field.drawer.sheet ? THREE.DoubleSide : THREE.FrontSide;
  const material = new THREE.MeshStandardMaterial({ vertexColors: !!colours, color: colours ? 0xffffff : 0xccc2b8, roughness: 0.8, side });
  return Object.assign(new THREE.Mesh(geometry, material), { userData: { field } });
};

const VERTEX = /* glsl */ `
  out vec3 place;
  void main() { place = position; gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0); }`;

const light = (field, resolution) => {
  const work = bake(field, resolution);
  let step;
  do step = work.next(); while (!step.done);
  const { low, voxel, size, shape, dims, bricks, cells, grid, textures, head, step: stepSize } = step.value, b = field.bounds;
  const uniforms = { stepSize: { value: stepSize }, voxel: { value: voxel }, inverse: { value: new THREE.Matrix4() } };
  const volume = (data, sides, options) => Object.assign(new THREE.Data3DTexture(data, ...sides), { needsUpdate: true, unpackAlignment: 1, ...options });
  const whole = { format: THREE.RedIntegerFormat, minFilter: THREE.NearestFilter, magFilter: THREE.NearestFilter };
  textures.forEach((data, i) => {
    uniforms[`v${i}`] = { value: volume(data, size, { minFilter: THREE.LinearFilter, magFilter: THREE.LinearFilter }) };
  });
  uniforms.bricks = { value: volume(bricks, shape, { ...whole, type: THREE.UnsignedShortType, internalFormat: "R16UI" }) };
  uniforms.cells = { value: volume(cells, [grid, grid, grid], { ...whole, type: THREE.UnsignedByteType, internalFormat: "R8UI" }) };
  uniforms.head = { value: Object.assign(new THREE.DataTexture(head, head.length / 4, 1, THREE.RGBAFormat, THREE.FloatType), { needsUpdate: true }) };
  for (const [name, v] of Object.entries({ low, boxLow: b.slice(0, 3), boxHigh: b.slice(3) })) uniforms[name] = { value: new THREE.Vector3(...v) };
  const material = new THREE.ShaderMaterial({
    uniforms, vertexShader: VERTEX, glslVersion: THREE.GLSL3, side: THREE.BackSide, transparent: true, toneMapped: false,
    blending: THREE.CustomBlending, blendSrc: THREE.OneFactor, blendDst: THREE.OneMinusSrcAlphaFactor, premultipliedAlpha: true,
    fragmentShader: /* glsl */ `
      in vec3 place;
      out vec4 colour;
      uniform mat4 inverse, modelViewMatrix, projectionMatrix;
      ${marchOf(field, "\nuniform highp sampler2D head;\n#define W(i) texelFetch(head, ivec2(i, 0), 0)\n")}
      void main() {
        vec3 eye = (inverse * vec4(cameraPosition, 1.0)).xyz, d = normalize(place - eye);
        colour = march(eye, d);
        if (colour.a < 0.004) discard;
        // Where most of what is seen is the field's, it is at its mean depth; else it hides nothing.
        vec4 p = projectionMatrix * modelViewMatrix * vec4(eye + depth * d, 1.0);
        gl_FragDepth = colour.a > 0.5 ? clamp(0.5 + 0.5 * p.z / p.w, 0.0, 1.0) : 1.0;
      }`,
  });
  const ends = dims.map((count) => (count - 1) * voxel);
  const geometry = new THREE.BoxGeometry(...ends).translate(...low.map((v, a) => v + ends[a] / 2));
  const mesh = Object.assign(new THREE.Mesh(geometry, material), { userData: { field } });
  mesh.onBeforeRender = () => uniforms.inverse.value.copy(mesh.matrixWorld).invert();
  return mesh;
};
