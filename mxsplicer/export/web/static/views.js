"use strict";
// A view is a picture that can be moved and zoomed: canvases over each other, the last but one with cells, the last with
// marks, so that other colours of the cells leave what is under them as it is.
class View {
  /**
   * @param holder element that the canvases are put into
   * @param size returns the width and height of what is shown, in its own units
   * @param actions layers, the functions (view, context) that draw the layers, the lowest first; marks(view, context),
   *   pick(x, y), lasso(points)
   */
  constructor(holder, size, actions) {
    Object.assign(this, { holder, size, actions, x: 0, y: 0, zoom: 1, pointers: new Map(), path: null });
    const context = (alpha) => holder.appendChild(document.createElement("canvas")).getContext("2d", { alpha });
    this.layers = actions.layers.map((_, place) => context(place > 0)); // the lowest hides what is under it
    this.marks = context(true);
    new ResizeObserver(() => this.resize()).observe(holder);
    holder.addEventListener("pointerdown", (event) => this.press(event));
    holder.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) holder.addEventListener(kind, (event) => this.release(event));
    holder.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), ...this.place(event));
    }, { passive: false });
    holder.addEventListener("keydown", (event) => this.key(event));
  }

  resize() {
    const { clientWidth, clientHeight } = this.holder;
    if (!clientWidth || !clientHeight) return;
    this.ratio = Math.min(2, devicePixelRatio || 1);
    this.width = clientWidth;
    this.height = clientHeight;
    for (const { canvas } of [...this.layers, this.marks]) {
      canvas.width = Math.round(this.width * this.ratio);
      canvas.height = Math.round(this.height * this.ratio);
    }
    if (!this.isFitted) this.fit();
    this.paint();
  }

  /** Show all of it. */
  fit() {
    const [width, height] = this.size();
    this.zoom = Math.min(this.width / width, this.height / height) * 0.98;
    [this.x, this.y] = [width / 2, height / 2];
    this.isFitted = true;
    this.change();
  }

  /** Show a place in the middle, not smaller than a zoom. */
  goTo(x, y, zoom = 0) {
    [this.x, this.y, this.zoom] = [x, y, Math.max(this.zoom, zoom)];
    this.isFitted = true;
    this.change();
  }

  /** Draw the layers again in the next frame, or only those from the one at a place on. */
  change(first = 0) {
    if (this.waiting === undefined) {
      requestAnimationFrame(() => {
        const { waiting } = this;
        this.waiting = undefined;
        this.paint(waiting);
      });
    }
    this.waiting = Math.min(first, this.waiting ?? first);
  }

  /** Draw the cells again in the next frame. */
  changeCells() {
    this.change(this.layers.length - 1);
  }

  paint(first = 0) {
    if (!this.width) return;
    for (let place = first; place < this.layers.length; place++) this.actions.layers[place](this, this.layers[place]);
    this.mark();
  }

  /** Draw the cells again now. */
  paintCells() {
    if (this.width) this.actions.layers.at(-1)(this, this.layers.at(-1));
  }

  mark() {
    const { marks, ratio } = this;
    marks.setTransform(ratio, 0, 0, ratio, 0, 0);
    marks.clearRect(0, 0, this.width, this.height);
    this.actions.marks(this, marks);
    if (!this.path) return;
    marks.beginPath();
    for (const [x, y] of this.path) marks.lineTo(x, y);
    marks.closePath();
    marks.setLineDash([4, 3]);
    marks.lineWidth = 1.5;
    marks.strokeStyle = "#ff9d00";
    marks.stroke();
    marks.setLineDash([]);
  }

  toScreen(x, y) {
    return [(x - this.x) * this.zoom + this.width / 2, (y - this.y) * this.zoom + this.height / 2];
  }

  fromScreen(x, y) {
    return [(x - this.width / 2) / this.zoom + this.x, (y - this.height / 2) / this.zoom + this.y];
  }

  zoomBy(factor, x = this.width / 2, y = this.height / 2) {
    const before = this.fromScreen(x, y), [width, height] = this.size();
    const whole = Math.min(this.width / width, this.height / height);
    this.zoom = Math.max(whole / 3, Math.min(whole * 4096, this.zoom * factor));
    const after = this.fromScreen(x, y);
    this.x += before[0] - after[0];
    this.y += before[1] - after[1];
    this.change();
  }

  place(event) {
    const box = this.holder.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    this.holder.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.place(event));
    this.isClick = this.pointers.size === 1;
    this.path = this.isClick && (state.isDrawing || event.shiftKey) ? [this.place(event)] : null;
  }

  move(event) {
    const from = this.pointers.get(event.pointerId), to = this.place(event);
    if (!from) return;
    if (Math.hypot(to[0] - from[0], to[1] - from[1]) < 3 && this.isClick) return;
    this.isClick = false;
    if (this.path) {
      this.path.push(to);
      this.pointers.set(event.pointerId, to);
      this.mark();
      return;
    }
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) { // two fingers
      const spread = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
      this.zoomBy(spread(to) / Math.max(1, spread(from)), (to[0] + other[0]) / 2, (to[1] + other[1]) / 2);
    } else {
      this.x -= (to[0] - from[0]) / this.zoom;
      this.y -= (to[1] - from[1]) / this.zoom;
      this.change();
    }
    this.pointers.set(event.pointerId, to);
  }

  release(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const { path } = this;
    this.path = null;
    if (event.type === "pointercancel") return;
    if (this.isClick) this.actions.pick(...this.fromScreen(...this.place(event)));
    else if (path?.length > 2) this.actions.lasso(path.map((point) => this.fromScreen(...point)));
    this.isClick = false;
    this.mark();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60 / this.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      this.x += moves[event.key][0];
      this.y += moves[event.key][1];
      this.change();
    } else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") this.actions.pick(this.x, this.y);
    else return;
    event.preventDefault();
  }
}

/** Return the width and height of a tile in pixels by its key, tiles/SLIDE/LEVEL/LAYER/ROW_COLUMN. */
function tileSize(key) {
  const [, number, level, , place] = key.split("/"), [row, column] = place.split("_").map(Number);
  const { levels, tile } = content.slides[number], [width, height] = levels[level];
  return [Math.min(tile, width - column * tile), Math.min(tile, height - row * tile)];
}

/** Return the tile to draw for one place: it, or a coarser one that is here; and which part of it. */
function nearestTile(number, layer, level, row, column) {
  const { levels, tile } = content.slides[number];
  const [width, height] = levels[level];
  const box = [column * tile, row * tile, Math.min(width, (column + 1) * tile), Math.min(height, (row + 1) * tile)];
  for (let up = 0; level + up < levels.length; up++) {
    const found = tiles.find(`tiles/${number}/${level + up}/${layer}/${row >> up}_${column >> up}`);
    if (!found) continue;
    if (!found.texture) return null;
    const left = (column >> up) * tile, top = (row >> up) * tile, scale = 1 / (1 << up);
    const part = [box[0] * scale - left, box[1] * scale - top, box[2] * scale - left, box[3] * scale - top];
    const sides = [found.width, found.height, found.width, found.height];
    return { ...found, up, part: part.map((one, i) => Math.min(1, one / sides[i])) };
  }
  return null;
}

/** Return which tiles of the tissue a view shows, and where, and ask for them. Positions are pixels of the finest level. */
function tissueInView(view) {
  const number = state.slide, slide = content.slides[number], { levels, tile } = slide;
  const { width, height } = view.marks.canvas, zoom = view.zoom * view.ratio; // of the screen's own pixels
  const level = Math.max(0, Math.min(levels.length - 1, Math.floor(Math.log2(1 / zoom) + 0.4)));
  const scale = zoom * (1 << level), [across, down] = levels[level];
  const left = view.x / (1 << level) - width / 2 / scale, top = view.y / (1 << level) - height / 2 / scale;
  const columns = [Math.max(0, Math.floor(left / tile)), Math.min(Math.ceil(across / tile), Math.ceil((left + width / scale) / tile))];
  const rows = [Math.max(0, Math.floor(top / tile)), Math.min(Math.ceil(down / tile), Math.ceil((top + height / scale) / tile))];
  const channels = state.channels.filter((one) => one.isOn && one.places[number] >= 0);
  const layers = [...channels.map((one) => one.places[number]), ...(state.cells === "off" ? [] : ["cells"])];
  const places = [];
  for (let row = rows[0]; row < rows[1]; row++) for (let column = columns[0]; column < columns[1]; column++) places.push([row, column]);
  const middle = [(rows[0] + rows[1] - 1) / 2, (columns[0] + columns[1] - 1) / 2];
  places.sort((a, b) => Math.hypot(a[0] - middle[0], a[1] - middle[1]) - Math.hypot(b[0] - middle[0], b[1] - middle[1]));
  const key = (at, layer, [row, column]) => `tiles/${number}/${at}/${layer}/${row}_${column}`;
  tiles.want([
    ...layers.map((layer) => key(levels.length - 1, layer, [0, 0])),
    ...places.flatMap((place) => layers.map((layer) => key(level, layer, place))),
  ]);
  state.level = level;
  const boxes = places.map(([row, column]) => { // of the screen, in clip coordinates
    const box = [column * tile, row * tile, Math.min(across, (column + 1) * tile), Math.min(down, (row + 1) * tile)];
    const [x, X] = [0, 2].map((i) => ((box[i] - left) * scale / width) * 2 - 1);
    const [y, Y] = [1, 3].map((i) => 1 - ((box[i] - top) * scale / height) * 2);
    return [x, y, X, Y];
  });
  return { number, channels, level, scale, places, boxes };
}

/** Draw the channels of the tissue on black. */
function paintChannels(view, context) {
  const { number, channels, level, places, boxes } = tissueInView(view), slide = content.slides[number];
  const { width, height } = context.canvas;
  drawing.begin(width, height, true);
  for (const one of channels) {
    const { low, full } = slide.channels[one.places[number]];
    const shown = one.shown.map((intensity) => (intensity - low) / (full - low)), colour = rgbOf(one.colour);
    places.forEach((place, i) => {
      const found = nearestTile(number, one.places[number], level, ...place);
      if (found) drawing.drawChannel(found.texture, boxes[i], found.part, colour, shown);
    });
  }
  copyTo(context);
}

/** Draw the cells of the tissue in their colours. */
function paintCells(view, context) {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  if (state.cells === "off") return;
  const { number, level, scale, places, boxes } = tissueInView(view);
  const how = { outlined: state.cells === "outline", opacity: state.opacity, chosen: state.cell };
  const { width, height } = context.canvas;
  drawing.begin(width, height, false);
  places.forEach((place, i) => {
    const found = nearestTile(number, "cells", level, ...place);
    if (found) drawing.drawCells(found.texture, boxes[i], found.part, { ...how, reach: 1 / (scale * (1 << found.up)) });
  });
  copyTo(context);
}

/** Copy what WebGL drew. */
function copyTo(context) {
  const { width, height } = context.canvas;
  context.drawImage(surface, 0, 0, width, height, 0, 0, width, height);
}

/** Return the row of the cell at a place of the tissue, or -1. */
function cellAt(x, y) {
  const { levels, tile } = content.slides[state.slide];
  if (x < 0 || y < 0 || x >= levels[0][0] || y >= levels[0][1]) return -1;
  for (let level = state.level; level < levels.length; level++) {
    const at = [x, y].map((one) => Math.floor(one / (1 << level))), [column, row] = at.map((one) => Math.floor(one / tile));
    const found = tiles.find(`tiles/${state.slide}/${level}/cells/${row}_${column}`);
    if (found) return found.rows ? found.rows[(at[1] - row * tile) * found.width + at[0] - column * tile] - 1 : -1;
  }
  return -1;
}

/**
 * Draw the UMAP, without WebGL: a million points take some milliseconds, also where no graphics card helps. Of points
 * at one pixel, the highest number is visible; of categories, any, so that none covers the others.
 */
function paintUmap(view, context) {
  const { width, height } = context.canvas, { codes, umap, selected } = state, { n } = content, { colours } = drawing;
  if (view.pixels?.width !== width || view.pixels.height !== height) {
    view.pixels = new ImageData(width, height);
    view.order = new Uint8Array(width * height);
  }
  const pixels = new Uint32Array(view.pixels.data.buffer), { order } = view;
  pixels.fill(0xffffffff);
  order.fill(0);
  const least = Math.min(view.width, view.height), closer = Math.sqrt(view.zoom / least);
  const size = Math.round(Math.max(1, Math.min(9, (least / Math.sqrt(n) / 2.2) * closer)) * view.ratio), half = size >> 1;
  const scale = (view.zoom / 65535) * view.ratio;
  const left = width / 2 - view.x * view.zoom * view.ratio - half + 0.5, top = height / 2 - view.y * view.zoom * view.ratio - half + 0.5;
  const isNumber = state.column.kind === "number", disc = []; // steps to the pixels of a point from its first
  for (let dy = 0; dy < size; dy++) {
    for (let dx = 0; dx < size; dx++) {
      if (size < 4 || (dx - half) ** 2 + (dy - half) ** 2 <= (half + 0.3) ** 2) disc.push(dy * width + dx);
    }
  }
  for (let row = 0; row < n; row++) {
    const x = umap[row], code = codes[row] & 0x7fff;
    let colour = colours[code];
    if (x === 65535 || colour < 0x1000000) continue; // without a position, or hidden
    const column = Math.floor(x * scale + left), line = Math.floor(umap[n + row] * scale + top);
    if (column < 0 || line < 0 || column + size > width || line + size > height) continue;
    let rank = isNumber ? (code === 255 ? 1 : 2 + (code >> 1)) : 1 + (Math.imul(row, 2654435761) >>> 25);
    if (!selected || selected[row]) rank += 120;
    else colour = 0xffe0e0e0;
    const first = line * width + column;
    for (let i = 0; i < disc.length; i++) {
      const place = first + disc[i];
      if (order[place] > rank) continue;
      order[place] = rank;
      pixels[place] = colour;
    }
  }
  context.putImageData(view.pixels, 0, 0);
}

/** Draw the mark of the picked cell, a ring. */
function ring(context, [x, y], colour) {
  for (const [width, style] of [[4, "#000"], [2, colour]]) {
    context.beginPath();
    context.arc(x, y, 9, 0, 7);
    context.lineWidth = width;
    context.strokeStyle = style;
    context.stroke();
  }
}

/** Draw a scale bar of a round number of micrometres. */
function scaleBar(view, context) {
  const perPixel = content.slides[state.slide].um / view.zoom, aim = perPixel * Math.min(140, view.width / 3);
  const power = 10 ** Math.floor(Math.log10(aim)), um = [5, 2, 1].find((one) => one * power <= aim) * power;
  const length = um / perPixel, text = um >= 1000 ? `${um / 1000} mm` : `${Number(um.toPrecision(1))} µm`;
  context.fillStyle = "rgba(0, 0, 0, 0.6)";
  context.fillRect(8, view.height - 34, length + 16, 28);
  context.fillStyle = "#fff";
  context.fillRect(16, view.height - 14, length, 3);
  context.font = "12px system-ui, sans-serif";
  context.fillText(text, 16, view.height - 18);
}

/** Return for each cell whether it lies inside a polygon, 1 or 0; place(row) is its position, or null. */
function inside(polygon, place) {
  const found = new Uint8Array(content.n);
  const [xs, ys] = [0, 1].map((axis) => polygon.map((point) => point[axis]));
  const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  const at = [0, 0];
  for (let row = 0; row < content.n; row++) {
    if (!place(row, at)) continue;
    const [x, y] = at;
    if (x < box[0] || x > box[2] || y < box[1] || y > box[3]) continue;
    let crossings = 0;
    for (let i = 0, j = xs.length - 1; i < xs.length; j = i++) {
      if (ys[i] > y !== ys[j] > y && x < ((xs[j] - xs[i]) * (y - ys[i])) / (ys[j] - ys[i]) + xs[i]) crossings++;
    }
    found[row] = crossings & 1;
  }
  return found;
}
