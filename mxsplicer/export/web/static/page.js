"use strict";
// The state of the page, and what changes it. Every change draws only the views that it concerns.
const state = { slide: 0, column: null, cells: "fill", opacity: 0.6, cell: -1, selected: null, channels: [], isDrawing: false, level: 0, examples: null };
const timing = {}; // of the last change of colours, in milliseconds
const views = {};
let content, drawing, tiles;

function report(error) {
  console.error(error);
  if (!content) at("about").hidden = true;
  at("problem").hidden = false;
  at("problem").textContent = error.message;
}

/** Return a promise of the codes of a column, one per cell; the last few stay in memory. */
const recent = new Map();
async function codesOf(column) {
  const kept = recent.get(column.key);
  recent.delete(column.key);
  const codes = kept ?? load(column.key).then(unpack).then((buffer) =>
    column.kind === "number" || column.categories.length < 255 ? new Uint8Array(buffer) : new Uint16Array(buffer));
  recent.set(column.key, codes);
  if (recent.size > 12) recent.delete(recent.keys().next().value);
  return codes;
}

/** Colour the cells by a column. */
async function colourBy(column) {
  const began = performance.now();
  state.wanted = column;
  const codes = await codesOf(column);
  if (state.wanted !== column) return; // another one was wanted meanwhile
  state.column = column;
  state.codes = codes;
  timing.load = performance.now() - began;
  recolour();
  fillColours();
  fillLegend();
  describeCell();
}

/** Give the cells their colours again and draw them now. */
function recolour() {
  const began = performance.now();
  drawing.setValues(state.codes, state.selected);
  drawing.setPalette(paletteOf(state.column));
  timing.upload = performance.now() - began;
  for (const view of Object.values(views)) view.paintCells();
  timing.draw = performance.now() - began - timing.upload;
}

/** Pick a cell by its row, -1 for none; show it in the middle of both views if it is to be found. */
async function pickCell(row, isSought = false) {
  state.cell = row;
  if (row >= 0) {
    await positions();
    if (state.cell !== row) return;
    if (isSought || state.slideOf[row] !== state.slide) {
      if (state.slideOf[row] !== state.slide) chooseSlide(state.slideOf[row]);
      const { um } = content.slides[state.slide];
      views.tissue.goTo(...placeOf(row), (um * views.tissue.width) / 120); // at least as close as 120 µm across
    }
  }
  for (const view of Object.values(views)) view.changeCells();
  await describeCell();
}

/** Load positions, slides and ids of the cells, which are needed once a cell is picked. */
function positions() {
  state.positions ??= Promise.all(["data/xy", "data/slide", "data/id"].map((key) => load(key).then(unpack))).then(([xy, slide, id]) => {
    state.xy = new Uint16Array(xy);
    state.slideOf = new Uint16Array(slide);
    state.ids = new Uint32Array(id);
  });
  return state.positions;
}

/** Return the position of a cell, in pixels of the finest level of its slide. */
function placeOf(row) {
  const { longest, step } = content.slides[state.slideOf[row]];
  return [0, 1].map((axis) => (state.xy[axis * content.n + row] / 65534) * (longest / step));
}

/** Return the names of cells in obs_names of the AnnData, and their rows in it. */
async function namesOf(rows) {
  await positions();
  if (content.has_names) state.names ??= await load("data/names");
  if (content.has_rows) state.rows ??= new Uint32Array(await unpack(await load("data/rows")));
  return rows.map((row) => {
    const slide = content.slides[state.slideOf[row]].name, id = state.ids[row];
    return { name: state.names?.[row] ?? `${slide}_${id}`, slide, id, row: state.rows?.[row] ?? row };
  });
}

async function describeCell() {
  const { cell, column, codes } = state;
  if (cell < 0) {
    at("cell").textContent = "No cell picked.";
    return;
  }
  const [{ name, slide, row }] = await namesOf([cell]), ofCluster = await codesOf(content.clusters);
  if (state.cell !== cell) return;
  const [x, y] = placeOf(cell).map((one) => Math.round(one * content.slides[state.slideOf[cell]].um));
  const cluster = valueOf(content.clusters, ofCluster, cell);
  const value = column === content.clusters ? "" : `; ${column.name}: ${valueOf(column, codes, cell)}`;
  at("cell").textContent = `Cell ${name} (row ${row} of cells.h5ad), slide ${slide}, x ${whole(x)} µm, y ${whole(y)} µm; cluster ${cluster}${value}`;
  if (state.shownCluster !== ofCluster[cell]) chooseExamples(ofCluster[cell]);
}

function chooseExamples(code) {
  state.shownCluster = code;
  showExamples(code).catch(report);
}

/** Select cells, 1 or 0 each; null selects none. */
async function select(selected) {
  let count = 0;
  if (selected) for (let row = 0; row < content.n; row++) count += selected[row];
  state.selected = count ? selected : null;
  recolour();
  at("save").disabled = at("clear").disabled = !count;
  if (!count) {
    at("selection").textContent = "No cells selected.";
    return;
  }
  const column = state.column.kind === "category" ? state.column : content.clusters, codes = await codesOf(column);
  const counts = new Map();
  for (let row = 0; row < content.n; row++) if (selected[row]) counts.set(codes[row], (counts.get(codes[row]) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1]);
  const listed = most.slice(0, 5).map(([code, n]) => `${column.labels?.[code] ?? column.categories[code] ?? "none"} (${whole(n)})`);
  at("selection").textContent = `${whole(count)} cells selected: ${listed.join(", ")}${most.length > 5 ? ", …" : ""}`;
}

async function selectCategory(column, code) {
  const codes = await codesOf(column);
  if (column === content.clusters) chooseExamples(code);
  await select(Uint8Array.from(codes, (one) => (one === code ? 1 : 0)));
}

async function save() {
  const rows = [];
  for (let row = 0; row < content.n; row++) if (state.selected[row]) rows.push(row);
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = (await namesOf(rows)).map((one) => [quoted(one.name), one.row, quoted(one.slide), one.id].join(","));
  const table = new Blob([`name,row,slide,cell_id\n${lines.join("\n")}\n`], { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(table), download: "selected_cells.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function chooseSlide(place) {
  state.slide = place;
  at("slide").value = place;
  views.tissue.fit();
}

function setDrawing(isOn) {
  state.isDrawing = isOn;
  at("lasso").setAttribute("aria-pressed", isOn);
  for (const { holder } of Object.values(views)) holder.classList.toggle("drawing", isOn);
}

/** Select the cells in a polygon that was drawn in the tissue. */
async function selectInTissue(polygon) {
  await positions();
  const { n } = content, { slide, slideOf, xy } = state, { longest, step } = content.slides[slide], scale = longest / step / 65534;
  await select(inside(polygon, (row, to) => {
    if (slideOf[row] !== slide) return false;
    [to[0], to[1]] = [xy[row] * scale, xy[n + row] * scale];
    return true;
  }));
  setDrawing(false);
}

/** Select the cells in a polygon that was drawn on the UMAP. */
async function selectOnUmap(polygon) {
  const { n } = content, { umap } = state;
  await select(inside(polygon, (row, to) => {
    if (umap[row] === 65535) return false;
    [to[0], to[1]] = [umap[row] / 65535, umap[n + row] / 65535];
    return true;
  }));
  setDrawing(false);
}

/** Pick the cell next to a point of the UMAP, if it is within 15 pixels. */
function pickOnUmap(x, y) {
  const { n } = content, { umap, codes, column } = state, [x16, y16] = [x * 65535, y * 65535];
  let best = -1, nearest = ((15 / views.umap.zoom) * 65535) ** 2;
  for (let row = 0; row < n; row++) {
    const distance = (umap[row] - x16) ** 2 + (umap[n + row] - y16) ** 2;
    if (distance < nearest && umap[row] !== 65535 && !column.hidden?.has(codes[row])) [best, nearest] = [row, distance];
  }
  pickCell(best, best >= 0).catch(report);
}

function prepareViews() {
  views.tissue = new View(at("tissue"), () => content.slides[state.slide].levels[0], {
    layers: [paintChannels, paintCells],
    marks: (view, context) => {
      scaleBar(view, context);
      if (state.cell >= 0 && state.xy && state.slideOf[state.cell] === state.slide) ring(context, view.toScreen(...placeOf(state.cell)), "#fff");
    },
    pick: (x, y) => pickCell(cellAt(Math.floor(x), Math.floor(y))).catch(report),
    lasso: (polygon) => selectInTissue(polygon).catch(report),
  });
  if (!state.umap) {
    at("umap-part").hidden = true;
    return;
  }
  views.umap = new View(at("umap"), () => [1, 1], {
    layers: [paintUmap],
    marks: (view, context) => {
      const { cell, umap } = state;
      if (cell >= 0 && umap[cell] !== 65535) ring(context, view.toScreen(umap[cell] / 65535, umap[content.n + cell] / 65535), "#fff");
    },
    pick: pickOnUmap,
    lasso: (polygon) => selectOnUmap(polygon).catch(report),
  });
}

function prepareControls() {
  content.slides.forEach((slide, place) => at("slide").add(new Option(slide.name, place)));
  at("slide-label").hidden = content.slides.length < 2;
  at("slide").addEventListener("change", () => chooseSlide(Number(at("slide").value)));
  at("cells").addEventListener("change", () => { state.cells = at("cells").value; views.tissue.changeCells(); });
  at("opacity").addEventListener("input", () => { state.opacity = at("opacity").value / 100; views.tissue.changeCells(); });
  at("lasso").addEventListener("click", () => setDrawing(!state.isDrawing));
  at("clear").addEventListener("click", () => select(null));
  at("save").addEventListener("click", () => save().catch(report));
  at("filter").addEventListener("input", fillColours);
  at("colour").addEventListener("change", () => colourBy(content.columns[at("colour").value]).catch(report));
  at("no-channels").addEventListener("click", () => { for (const one of state.channels) one.isOn = false; changeChannels(true); });
  at("example-cluster").addEventListener("change", () => chooseExamples(Number(at("example-cluster").value)));
  addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "s" || event.key === "S") setDrawing(!state.isDrawing);
    if (event.key === "Escape") { setDrawing(false); pickCell(-1); if (state.selected) select(null); }
  });
  const { clusters, examples } = content;
  if (!examples) return;
  at("examples-part").hidden = false;
  for (const code of Object.keys(examples.clusters)) at("example-cluster").add(new Option(clusters.labels[code], code));
}

function describe() {
  const { slides, n } = content, markers = content.columns.filter((one) => one.group === "Markers").length;
  const named = slides.length === 1 ? slides[0].name : `${whole(slides.length)} slides`;
  at("title").textContent = document.title = `${named}: ${whole(n)} cells, ${markers} markers`;
  const coarser = slides.some((one) => one.step > 1), sizes = [...new Set(slides.map((one) => number(one.um)))];
  const pixels = `${sizes.slice(0, 4).join(", ")}${sizes.length > 4 ? ", …" : ""} µm`;
  at("about").textContent = `Written by ${content.made_by}. Pixels of the images: ${pixels}${coarser ? ", coarser than the slide" : ""}; intensities of images are in 8 bits, for display. Rows count from 0, in the order of cells.h5ad.`;
}

async function start() {
  if (!gl) throw new Error("This browser offers no WebGL 2, which draws the cells. Try a current Firefox, Chrome, Edge or Safari, with hardware acceleration on.");
  if (!window.DecompressionStream) throw new Error("This browser is too old. Try a current Firefox, Chrome, Edge or Safari.");
  content = await load("data/index");
  for (const column of content.columns) if (column.kind === "category") column.hidden = new Set();
  content.clusters = content.columns.find((one) => one.group === "Clusters");
  drawing = new Drawing(content.n);
  tiles = new Tiles(() => views.tissue?.change());
  surface.addEventListener("webglcontextlost", () => report(new Error("The graphics card dropped the page. Reload it.")));
  if (content.has_umap) {
    state.umap = new Uint16Array(await unpack(await load("data/umap")));
  }
  state.column = content.clusters;
  state.codes = await codesOf(content.clusters);
  prepareChannels();
  describe();
  prepareControls();
  fillChannels();
  prepareViews();
  await colourBy(content.clusters);
  if (content.heatmap) await prepareHeatmap();
  if (content.examples) chooseExamples(Number(Object.keys(content.examples.clusters)[0]));
  document.documentElement.dataset.ready = "yes";
}

start().catch(report);
