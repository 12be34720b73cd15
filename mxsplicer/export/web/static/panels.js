"use strict";
// What stands next to the views. Names of markers and clusters reach the page as text alone, never as HTML.
const at = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
const whole = (value) => value.toLocaleString("en");
const rgbOf = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255);

/** Make an element with properties and children. */
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Viridis, from dark to yellow, in nine steps; grey for what is missing.
const STOPS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"].map(rgbOf);
const MISSING = [217, 217, 217, 255];

function paletteOf(column) {
  if (column.kind === "number") {
    const rgba = new Uint8Array(1024);
    for (let i = 0; i < 255; i++) {
      const place = (i / 254) * 8, low = Math.min(7, Math.floor(place)), weight = place - low;
      for (let k = 0; k < 3; k++) rgba[4 * i + k] = 255 * (STOPS[low][k] * (1 - weight) + STOPS[low + 1][k] * weight);
      rgba[4 * i + 3] = 255;
    }
    rgba.set(MISSING, 1020);
    return rgba;
  }
  const few = column.categories.length < 255, rgba = new Uint8Array(few ? 1024 : 0x8000 * 4);
  column.colors.forEach((colour, code) => {
    const alpha = column.hidden.has(code) ? 0 : 255;
    rgba.set([...rgbOf(colour).map((one) => Math.round(255 * one)), alpha], 4 * code);
  });
  rgba.set(MISSING, rgba.length - 4);
  return rgba;
}

/** Return what a column has for a cell, as text. */
function valueOf(column, codes, row) {
  const code = codes[row];
  if (column.kind === "category") return column.labels?.[code] ?? column.categories[code] ?? "none";
  if (code === 255) return "none";
  const value = column.low + (code / 254) * (column.high - column.low), ends = code === 0 ? "≤ " : code === 254 ? "≥ " : "about ";
  return ends + number(column.is_log ? Math.expm1(value) : value);
}

function fillColours() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean), groups = new Map();
  at("colour").replaceChildren();
  content.columns.forEach((column, place) => {
    const isShown = words.every((word) => column.name.toLowerCase().includes(word));
    if (!isShown && column !== state.column) return;
    if (!groups.has(column.group)) groups.set(column.group, at("colour").appendChild(make("optgroup", { label: column.group })));
    groups.get(column.group).append(new Option(column.name, place, false, column === state.column));
  });
}

function fillLegend() {
  const { column } = state;
  if (column.kind === "number") {
    const ends = [column.low, column.high].map((one) => number(column.is_log ? Math.expm1(one) : one));
    const ramp = make("div", { className: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${STOPS.map((one) => `rgb(${one.map((c) => Math.round(255 * c))})`)})`;
    const scale = column.is_log ? "mean intensity of the cell, logarithmic scale; lowest and highest 0.5 % are cut" : "lowest and highest 0.5 % are cut";
    at("legend").replaceChildren(ramp, make("div", { className: "ends" }, make("span", {}, ends[0]), make("span", {}, ends[1])), make("p", { className: "hint" }, scale));
    return;
  }
  const all = make("button", { onclick: () => showCategories(column.hidden.size > 0) }, column.hidden.size ? "Show all" : "Hide all");
  const entries = column.categories.map((name, code) => {
    const text = column.labels?.[code] ?? name;
    const box = make("input", { type: "checkbox", checked: !column.hidden.has(code), ariaLabel: `Show ${text}` });
    box.addEventListener("change", () => {
      box.checked ? column.hidden.delete(code) : column.hidden.add(code);
      recolour();
      all.textContent = column.hidden.size ? "Show all" : "Hide all";
    });
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = column.colors[code];
    const pick = make("button", { title: "Select its cells", onclick: () => selectCategory(column, code) }, text);
    return make("div", { className: "entry" }, box, swatch, pick, make("span", { className: "count" }, whole(column.counts[code])));
  });
  at("legend").replaceChildren(all, ...entries);
}

function showCategories(all) {
  const { column } = state;
  column.hidden = all ? new Set() : new Set(column.categories.keys());
  recolour();
  fillLegend();
}

/** Prepare the channels of all slides, by marker; those that the export chose are on. */
function prepareChannels() {
  const names = [...new Set(content.slides.flatMap((slide) => slide.channels.map((one) => one.name)))];
  state.channels = names.map((name) => {
    const places = content.slides.map((slide) => slide.channels.findIndex((one) => one.name === name));
    const first = places.findIndex((place) => place >= 0), { shown, low, full } = content.slides[first].channels[places[first]];
    return { name, places, low, full, shown: [...shown], isOn: false, colour: null };
  });
  for (const name of content.channels) showChannel(name);
}

/** Show the channel of a marker in the first colour that is free. */
function showChannel(name) {
  const one = state.channels.find((channel) => channel.name === name);
  if (!one || one.isOn) return;
  const taken = state.channels.filter((channel) => channel.isOn).map((channel) => channel.colour);
  one.colour ??= content.channel_colors.find((colour) => !taken.includes(colour)) ?? "#ffffff";
  one.isOn = true;
}

function fillChannels() {
  at("channels").replaceChildren(...state.channels.map((one) => {
    const box = make("input", { type: "checkbox", checked: one.isOn });
    box.addEventListener("change", () => { box.checked ? showChannel(one.name) : (one.isOn = false); changeChannels(true); });
    const colour = make("input", { type: "color", value: one.colour ?? "#ffffff", ariaLabel: `Colour of ${one.name}` });
    colour.addEventListener("input", () => { one.colour = colour.value; changeChannels(false); });
    const line = make("div", { className: "channel" }, box, make("label", { onclick: () => box.click() }, one.name), colour);
    if (!one.isOn) { colour.hidden = true; return line; }
    const limits = [0, 1].map((end) => {
      const root = Math.sqrt(Math.max(0, (one.shown[end] - one.low) / (one.full - one.low)));
      const name = `${one.name}: ${["black", "full colour"][end]} at intensity`;
      const slider = make("input", { type: "range", min: 0, max: 255, value: Math.round(255 * root), ariaLabel: name });
      const text = make("span", {}, number(one.shown[end]));
      slider.addEventListener("input", () => {
        one.shown[end] = one.low + (slider.value / 255) ** 2 * (one.full - one.low);
        text.textContent = number(one.shown[end]);
        changeChannels(false);
      });
      return make("label", {}, ["black at ", "full at "][end], text, slider);
    });
    line.append(make("div", { className: "limits" }, ...limits));
    return line;
  }));
}

function changeChannels(isOther) {
  if (isOther) fillChannels();
  views.tissue.change();
  drawExamples();
}

// Example cells.
async function showExamples(code) {
  const found = content.examples?.clusters[code];
  if (!found) return;
  at("example-cluster").value = code;
  const sheet = await load(`examples/${code}`);
  const inside = new Uint8Array(await unpack(sheet.inside));
  if (at("example-cluster").value !== String(code)) return; // another one was wanted meanwhile
  state.examples = { sheet, inside, rows: found, greys: new Map() };
  at("examples").replaceChildren(...found.map((rows, kind) => {
    const buttons = rows.map((row, across) => {
      const { side_px } = content.examples, canvas = make("canvas", { width: side_px, height: side_px });
      Object.assign(canvas.dataset, { kind, across });
      return make("button", { title: "Show this cell in the tissue", ariaLabel: `${content.examples.kinds[kind]} cell ${across + 1}`, onclick: () => pickCell(row, true) }, canvas);
    });
    return make("div", { className: "kind" }, make("h3", {}, content.examples.kinds[kind]), ...buttons);
  }));
  const note = content.clusters.notes?.[code];
  at("examples-about").textContent = `${note ? `${note} ` : ""}Images are ${number(content.examples.size_um)} µm wide, at full resolution, in the channels of the tissue. A click shows the cell there.`;
  drawExamples();
}

/** Return the grey values of a sheet of example cells in one marker. */
async function sheetOf(examples, place) {
  if (!examples.greys.has(place)) {
    const image = await unpackImage(examples.sheet.sheets[place]);
    const context = make("canvas", { width: image.width, height: image.height }).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    examples.greys.set(place, context.getImageData(0, 0, image.width, image.height).data);
  }
  return examples.greys.get(place);
}

async function drawExamples() {
  const { examples } = state;
  if (!examples) return;
  const { side_px: side, across, markers } = content.examples, width = side * across;
  const shown = state.channels.filter((one) => one.isOn && markers.includes(one.name));
  const greys = await Promise.all(shown.map((one) => sheetOf(examples, markers.indexOf(one.name))));
  if (examples !== state.examples) return;
  // Per channel the colour of each of the 256 grey values.
  const tables = shown.map((one) => {
    const { low, full } = content.slides[0].channels.find((channel) => channel.name === one.name), rgb = rgbOf(one.colour);
    return Array.from({ length: 256 }, (_, grey) => {
      const bright = ((grey / 255) ** 2 * (full - low) + low - one.shown[0]) / Math.max(one.shown[1] - one.shown[0], 1e-9);
      return rgb.map((c) => 255 * c * Math.min(1, Math.max(0, bright)) ** 0.7);
    });
  });
  for (const canvas of at("examples").querySelectorAll("canvas")) {
    const context = canvas.getContext("2d"), pixels = context.createImageData(side, side);
    const top = canvas.dataset.kind * side, left = canvas.dataset.across * side;
    const isCell = (y, x) => y >= 0 && x >= 0 && y < side && x < side && examples.inside[(top + y) * width + left + x] === 1;
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const to = 4 * (y * side + x), from = (top + y) * width + left + x;
        if (!isCell(y, x) && (isCell(y - 1, x) || isCell(y + 1, x) || isCell(y, x - 1) || isCell(y, x + 1))) {
          pixels.data.fill(255, to, to + 4);
          continue;
        }
        greys.forEach((grey, i) => { for (let k = 0; k < 3; k++) pixels.data[to + k] += tables[i][grey[4 * from]][k]; });
        pixels.data[to + 3] = 255;
      }
    }
    context.putImageData(pixels, 0, 0);
  }
}

// The correlation heatmap.
const ROW_PX = 15, NAMES_PX = 84;

async function prepareHeatmap() {
  const { heatmap } = content;
  heatmap.r = new Int8Array(await unpack(heatmap.r));
  heatmap.weak = new Uint8Array(await unpack(heatmap.weak));
  heatmap.cursor = [0, 0];
  const columns = content.columns.filter((one) => one.group === "Features"), markers = content.columns.filter((one) => one.group === "Markers");
  heatmap.columns = heatmap.features.map((place) => columns[place]);
  heatmap.rows = heatmap.markers.map((place) => markers[place]);
  const canvas = at("heatmap");
  at("heatmap-part").hidden = false;
  new ResizeObserver(drawHeatmap).observe(canvas.parentElement);
  const cellOf = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left - NAMES_PX, y = event.clientY - box.top;
    const place = [Math.floor(y / ROW_PX), Math.floor((x / (box.width - NAMES_PX)) * heatmap.columns.length)];
    return place[0] >= 0 && place[0] < heatmap.rows.length && place[1] < heatmap.columns.length ? place : null;
  };
  canvas.addEventListener("pointermove", (event) => moveCursor(cellOf(event)));
  canvas.addEventListener("click", (event) => { moveCursor(cellOf(event)); useCursor(cellOf(event)); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) moveCursor([0, 1].map((i) => Math.max(0, Math.min([heatmap.rows, heatmap.columns][i].length - 1, heatmap.cursor[i] + step[i]))));
    else if (event.key === "Enter") useCursor(heatmap.cursor);
    else return;
    event.preventDefault();
  });
}

function moveCursor(place) {
  if (!place || place[1] < 0) return;
  const { heatmap } = content, i = place[0] * heatmap.columns.length + place[1];
  heatmap.cursor = place;
  at("heatmap-about").textContent = `${heatmap.rows[place[0]].name} with ${heatmap.columns[place[1]].name}: r = ${(heatmap.r[i] / 100).toFixed(2)}${heatmap.weak[i] ? ", not significant" : ""}`;
  drawHeatmap();
}

/** Colour by the feature at the cursor and show the channel of the marker; left of the columns, colour by the marker. */
function useCursor(place) {
  if (!place) return;
  const { heatmap } = content, marker = heatmap.rows[place[0]];
  showChannel(marker.name);
  changeChannels(true);
  colourBy(place[1] < 0 ? marker : heatmap.columns[place[1]]);
}

function drawHeatmap() {
  const { heatmap } = content, canvas = at("heatmap"), ratio = Math.min(2, devicePixelRatio || 1);
  const width = canvas.parentElement.clientWidth - 18, height = heatmap.rows.length * ROW_PX, n = heatmap.columns.length;
  if (width < 1) return;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d"), pixels = new ImageData(n, heatmap.rows.length);
  heatmap.r.forEach((hundredths, i) => {
    const strength = (Math.abs(hundredths) / 100) ** 0.8 * (heatmap.weak[i] ? 0.25 : 1), far = hundredths < 0 ? [33, 102, 172] : [178, 24, 43];
    pixels.data.set([...far.map((c) => 247 + (c - 247) * strength), 255], 4 * i);
  });
  const small = make("canvas", { width: n, height: heatmap.rows.length });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.imageSmoothingEnabled = n > (width - NAMES_PX) * ratio;
  context.drawImage(small, NAMES_PX, 0, width - NAMES_PX, height);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  heatmap.rows.forEach(({ name }, row) => {
    context.fillStyle = row === heatmap.cursor[0] ? "#0063a8" : "#1d2329";
    const short = name.length > 13 ? `${name.slice(0, 12)}…` : name;
    context.fillText(short, 2, (row + 0.5) * ROW_PX, NAMES_PX - 6);
  });
  const step = (width - NAMES_PX) / n;
  context.strokeStyle = "#000";
  context.strokeRect(NAMES_PX + heatmap.cursor[1] * step - 1, heatmap.cursor[0] * ROW_PX + 0.5, Math.max(4, step + 2), ROW_PX - 1);
}
