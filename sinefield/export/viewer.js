"use strict";
// A mesh to turn: {box: [low, high], vertices, faces, colours or null}, arrays in base64, little endian; y is up.
(() => {
  const canvas = document.getElementById("viewer");
  const gl = canvas.getContext("webgl", { antialias: true, alpha: true });
  if (!gl) {
    const hint = "This browser shows no WebGL; sinefield mesh writes the surface as a file.";
    document.getElementById("hint").textContent = hint;
    canvas.remove();
    return;
  }
  const mesh = JSON.parse(document.getElementById("mesh").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const quantised = new Uint16Array(bytes(mesh.vertices));
  const faces = new Uint16Array(bytes(mesh.faces));
  const [low, high] = mesh.box;
  const sides = high.map((h, i) => h - low[i]);
  const radius = Math.hypot(...sides) / 2 || 1;
  // Centred, and scaled to a ball of radius 1.
  const vertices = Float32Array.from(quantised, (q, i) => (q / 65535 - 0.5) * sides[i % 3] / radius);

  // A vertex's normal is the sum of its faces', weighted by their area.
  const normals = new Float32Array(vertices.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [faces[f] * 3, faces[f + 1] * 3, faces[f + 2] * 3];
    const u = [0, 1, 2].map((k) => vertices[b + k] - vertices[a + k]);
    const v = [0, 1, 2].map((k) => vertices[c + k] - vertices[a + k]);
    for (let k = 0; k < 3; k++) {
      const n = u[(k + 1) % 3] * v[(k + 2) % 3] - u[(k + 2) % 3] * v[(k + 1) % 3];
      for (const corner of [a, b, c]) normals[corner + k] += n;
    }
  }

  const shader = (kind, source) => {
    const made = gl.createShader(kind);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    return made;
  };
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER, `
    attribute vec3 position, normal, colour;
    uniform mat3 turn;
    uniform vec3 lens;  // focal lengths across and up, distance of the eye
    varying vec3 n, c;
    void main() {
      vec3 p = turn * position - vec3(0.0, 0.0, lens.z);
      float near = max(0.02, lens.z - 1.1), far = lens.z + 1.1;
      n = turn * normal;
      c = colour;
      gl_Position = vec4(lens.xy * p.xy, (-p.z * (far + near) - 2.0 * far * near) / (far - near), -p.z);
    }`));
  // A field's own colours hold the scene's light already, so the lamp at the eye only hints at the form.
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, `
    precision mediump float;
    uniform float ambient;
    varying vec3 n, c;
    void main() {
      vec3 m = normalize(n);
      float light = max(0.0, dot(m, normalize(vec3(0.3, 0.5, 1.0))));
      gl_FragColor = vec4(c * (ambient + (1.05 - ambient) * light), 1.0);
    }`));
  gl.linkProgram(program);
  gl.useProgram(program);
  const attribute = (name, data, kind, normalised) => {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, kind, normalised, 0, 0);
  };
  attribute("position", vertices, gl.FLOAT, false);
  attribute("normal", normals, gl.FLOAT, false);
  if (mesh.colours) attribute("colour", new Uint8Array(bytes(mesh.colours)), gl.UNSIGNED_BYTE, true);
  else gl.vertexAttrib3f(gl.getAttribLocation(program, "colour"), 0.8, 0.76, 0.72);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
  gl.uniform1f(gl.getUniformLocation(program, "ambient"), mesh.colours ? 0.75 : 0.25);
  gl.enable(gl.DEPTH_TEST);

  const start = { yaw: -0.6, pitch: 0.35, distance: 2.8 };
  let view = { ...start };
  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const [a, b, c, d] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    gl.uniformMatrix3fv(gl.getUniformLocation(program, "turn"), false, [a, b * d, -b * c, 0, c, d, b, -a * d, a * c]);
    const focal = 2.6 * Math.min(canvas.width, canvas.height);
    gl.uniform3f(gl.getUniformLocation(program, "lens"), focal / canvas.width, focal / canvas.height, view.distance);
    gl.drawElements(gl.TRIANGLES, faces.length, gl.UNSIGNED_SHORT, 0);
  };
  const change = (yaw, pitch, zoom) => {
    view.yaw += yaw;
    view.pitch = Math.min(1.57, Math.max(-1.57, view.pitch + pitch));
    view.distance = Math.min(12, Math.max(0.4, view.distance * zoom));
    requestAnimationFrame(draw);
  };
  canvas.addEventListener("pointerdown", (e) => canvas.setPointerCapture(e.pointerId));
  canvas.addEventListener("pointermove", (e) => e.buttons && change(e.movementX * 0.008, e.movementY * 0.008, 1));
  canvas.addEventListener("wheel", (e) => {
    if (document.activeElement !== canvas) return;  // until it is clicked, the wheel scrolls the page
    e.preventDefault();
    change(0, 0, Math.exp(Math.max(-60, Math.min(60, e.deltaY)) * 0.003));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => {
    view = { ...start };
    change(0, 0, 1);
  });
  canvas.addEventListener("keydown", (e) => {
    const moves = {
      ArrowLeft: [-0.1, 0, 1], ArrowRight: [0.1, 0, 1], ArrowUp: [0, -0.1, 1], ArrowDown: [0, 0.1, 1],
      "+": [0, 0, 0.9], "-": [0, 0, 1.1],
    };
    if (!moves[e.key]) return;
    e.preventDefault();
    change(...moves[e.key]);
  });
  window.addEventListener("resize", draw);
  draw();
})();
