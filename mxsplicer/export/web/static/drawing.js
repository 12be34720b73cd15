"use strict";
// WebGL draws the tissue. A tile of the cells holds their rows in the table. Each row has a value, a 16-bit number in a
// texture, whose colour is looked up in a palette. Colouring a million cells again is an upload of two megabytes and one
// drawing of the cells; the channels under them stay.
const surface = document.createElement("canvas");
const gl = surface.getContext("webgl2", { antialias: false, depth: false });
const ACROSS = 2048; // cells in a row of the texture of values
const SELECTED = 0x8000; // this bit of a value

const QUAD = `#version 300 es
uniform vec4 place; // left, top, right, bottom in clip coordinates
uniform vec4 part;  // the same of the texture, 0 to 1
out vec2 at;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  at = mix(part.xy, part.zw, corner);
  gl_Position = vec4(mix(place.xy, place.zw, corner), 0, 1);
}`;

const CHANNEL = `#version 300 es
precision highp float;
uniform highp sampler2D pixels; // square root of the intensity
uniform vec3 colour;
uniform vec2 shown; // intensities that are black and full
in vec2 at;
out vec4 drawn;
void main() {
  float root = texture(pixels, at).r;
  float bright = clamp((root * root - shown.x) / max(shown.y - shown.x, 1e-9), 0.0, 1.0);
  drawn = vec4(colour * pow(bright, 0.7), 1);
}`;

const CELLS = `#version 300 es
precision highp float;
precision highp int;
uniform highp usampler2D cells; // row of the cell at each pixel, from 1; 0 is background
uniform uint chosen;            // the same of the cell that was picked
uniform float opacity, reach;   // reach: pixels of the texture for one pixel of the screen
uniform bool outlined;
uniform highp usampler2D values;
uniform highp sampler2D palette;
uniform bool someSelected;
in vec2 at;
out vec4 drawn;
uint cellAt(ivec2 place) { return texelFetch(cells, clamp(place, ivec2(0), textureSize(cells, 0) - 1), 0).r; }
void main() {
  ivec2 place = ivec2(at * vec2(textureSize(cells, 0)));
  uint cell = cellAt(place);
  if (cell == 0u) discard;
  int step = max(1, int(reach + 0.5));
  bool edge = (outlined || cell == chosen)
    && (cellAt(place + ivec2(step, 0)) != cell || cellAt(place - ivec2(step, 0)) != cell
      || cellAt(place + ivec2(0, step)) != cell || cellAt(place - ivec2(0, step)) != cell);
  if (cell == chosen && edge) { drawn = vec4(1); return; }
  int row = int(cell - 1u);
  uint value = texelFetch(values, ivec2(row % ${ACROSS}, row / ${ACROSS}), 0).r;
  vec4 colour = texelFetch(palette, ivec2(int(value & 255u), int(value >> 8u) & 127), 0);
  bool isFaint = someSelected && value < ${SELECTED}u;
  float alpha = colour.a * (outlined && !edge ? 0.0 : opacity) * (isFaint ? 0.15 : 1.0);
  if (alpha == 0.0) discard;
  drawn = vec4(colour.rgb * alpha, alpha);
}`;

function program(vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) || "a shader failed");
  const uniforms = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(made, i);
    uniforms[name] = gl.getUniformLocation(made, name);
  }
  return { made, uniforms };
}

function texture(filter) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  return made;
}

class Drawing {
  /** Draw n cells. */
  constructor(n) {
    this.n = n;
    this.channel = program(QUAD, CHANNEL);
    this.cells = program(QUAD, CELLS);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.down = Math.max(1, Math.ceil(n / ACROSS));
    if (this.down > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error(`${n} cells are too many for this graphics card.`);
    this.buffer = new Uint16Array(ACROSS * this.down);
    this.values = texture(gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R16UI, ACROSS, this.down);
    this.palette = texture(gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA8, 256, 128);
    this.empty = gl.createVertexArray();
  }

  /** Give each cell its value, and mark those that are selected (0 or 1 each, or null). */
  setValues(values, selected) {
    const { buffer, n } = this;
    if (selected) for (let i = 0; i < n; i++) buffer[i] = (values[i] & 0x7fff) | (selected[i] << 15);
    else for (let i = 0; i < n; i++) buffer[i] = values[i] & 0x7fff;
    gl.bindTexture(gl.TEXTURE_2D, this.values);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ACROSS, this.down, gl.RED_INTEGER, gl.UNSIGNED_SHORT, buffer);
    this.someSelected = Boolean(selected);
  }

  /** Set the colours of the values, four bytes each, from the value 0 on; alpha 0 hides. */
  setPalette(rgba) {
    this.colours = new Uint32Array(rgba.buffer);
    const rows = Math.ceil(rgba.length / 1024), whole = new Uint8Array(rows * 1024);
    whole.set(rgba);
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 256, rows, gl.RGBA, gl.UNSIGNED_BYTE, whole);
  }

  /** Begin a picture of this size in pixels, transparent or black. */
  begin(width, height, isBlack) {
    if (surface.width < width) surface.width = width;
    if (surface.height < height) surface.height = height;
    gl.viewport(0, surface.height - height, width, height); // the upper left corner of the canvas
    gl.clearColor(0, 0, 0, isBlack ? 1 : 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  drawChannel(tile, place, part, colour, shown) {
    const uniforms = this.use(this.channel, tile, place, part);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    gl.uniform1i(uniforms.pixels, 0);
    gl.uniform3fv(uniforms.colour, colour);
    gl.uniform2fv(uniforms.shown, shown);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  drawCells(tile, place, part, { outlined, opacity, reach, chosen }) {
    const uniforms = this.use(this.cells, tile, place, part);
    gl.disable(gl.BLEND);
    gl.uniform1i(uniforms.cells, 0);
    this.bind(1, this.values);
    this.bind(2, this.palette);
    gl.uniform1i(uniforms.values, 1);
    gl.uniform1i(uniforms.palette, 2);
    gl.uniform1i(uniforms.someSelected, this.someSelected);
    gl.uniform1ui(uniforms.chosen, chosen + 1);
    gl.uniform1f(uniforms.opacity, opacity);
    gl.uniform1f(uniforms.reach, reach);
    gl.uniform1i(uniforms.outlined, outlined);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  /** Take a program for a part of a tile at a place of the picture, and return its uniforms. */
  use({ made, uniforms }, tile, place, part) {
    gl.useProgram(made);
    gl.bindVertexArray(this.empty);
    this.bind(0, tile);
    gl.uniform4fv(uniforms.place, place);
    gl.uniform4fv(uniforms.part, part);
    return uniforms;
  }

  bind(unit, one) {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, one);
    gl.activeTexture(gl.TEXTURE0);
  }
}

// Tiles in graphics memory; those that were not drawn for the longest time are dropped.
class Tiles {
  constructor(onArrival) {
    this.known = new Map(); // by key, in the order of use
    this.bytes = 0;
    this.inFlight = 0;
    this.wanted = [];
    this.onArrival = onArrival;
  }

  /** Return a tile if it is here: { texture, width, height, rows }, or { texture: null } if it is empty. */
  find(key) {
    const tile = this.known.get(key);
    if (!tile || tile.isLoading) return null;
    this.known.delete(key);
    this.known.set(key, tile);
    return tile;
  }

  /** Ask for tiles, the most wanted first; earlier wishes that did not begin are forgotten. */
  want(keys) {
    this.wanted = keys.filter((key) => !this.known.has(key));
    this.next();
  }

  next() {
    while (this.inFlight < 8 && this.wanted.length) {
      const key = this.wanted.shift();
      if (this.known.has(key)) continue;
      this.known.set(key, { isLoading: true });
      this.inFlight++;
      this.fetch(key)
        .catch((error) => (report(error), { texture: null, bytes: 0 }))
        .then((tile) => {
          this.inFlight--;
          this.known.delete(key);
          this.known.set(key, tile);
          this.bytes += tile.bytes;
          this.drop();
          this.onArrival();
          this.next();
        });
    }
  }

  async fetch(key) {
    const text = await load(key);
    if (!text) return { texture: null, bytes: 0 };
    const side = key.split("/");
    if (side[3] === "cells") {
      const rows = new Uint32Array(await unpack(text)), [width, height] = tileSize(key);
      const made = texture(gl.NEAREST);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32UI, width, height, 0, gl.RED_INTEGER, gl.UNSIGNED_INT, rows);
      return { texture: made, width, height, rows, bytes: 2 * rows.byteLength };
    }
    const image = await unpackImage(text), made = texture(gl.LINEAR);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, gl.RED, gl.UNSIGNED_BYTE, image);
    return { texture: made, width: image.width, height: image.height, bytes: image.width * image.height };
  }

  drop() {
    for (const [key, tile] of this.known) {
      if (this.bytes < 400e6) break;
      if (tile.isLoading) continue;
      if (tile.texture) gl.deleteTexture(tile.texture);
      this.bytes -= tile.bytes;
      this.known.delete(key);
    }
  }
}
