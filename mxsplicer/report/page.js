"use strict";
// Filters: a search field hides the items of its list that do not contain the words.
for (const field of document.querySelectorAll("input[data-filter]")) {
  const items = [...document.querySelectorAll(field.dataset.filter)];
  const status = document.getElementById(field.dataset.count);
  const texts = items.map((item) => item.textContent.toLowerCase());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, i) => {
      item.hidden = !words.every((word) => texts[i].includes(word));
      shown += !item.hidden;
    });
    if (status) status.textContent = words.length ? `${shown} of ${items.length}` : "";
  });
}
// The cells: a canvas that shows them on the UMAP or in the tissue, by cluster or by marker.
const holder = document.getElementById("cells-data");
if (holder) {
  const data = JSON.parse(holder.textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const positions = { umap: new Uint16Array(bytes(data.umap)), tissue: new Uint16Array(bytes(data.tissue)) };
  const slideOf = new Uint16Array(bytes(data.slide));
  const clusterOf = new Uint16Array(bytes(data.cluster));
  const ids = new Uint32Array(bytes(data.id));
  const values = new Uint8Array(bytes(data.values));
  const canvas = document.getElementById("cells-canvas");
  const tip = document.getElementById("cells-tip");
  const where = document.getElementById("cells-where");
  const colour = document.getElementById("cells-colour");
  const legend = document.getElementById("cells-legend");
  const scale = document.getElementById("cells-scale");
  const context = canvas.getContext("2d");
  const hidden = new Set();
  let chosen = -1, drawn = [];

  data.slides.forEach((slide, i) => where.add(new Option(data.slides.length > 1 ? `tissue: ${slide.name}` : "tissue", i)));
  data.markers.forEach((marker, i) => colour.add(new Option(marker.name, i)));
  data.clusters.forEach((cluster, i) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    const swatch = document.createElement("span");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { box.checked ? hidden.delete(i) : hidden.add(i); draw(); });
    swatch.className = "swatch";
    swatch.style.background = cluster.color;
    label.append(box, swatch, cluster.suggested ? `${cluster.name}: ${cluster.suggested}` : cluster.name);
    legend.append(label);
  });
  document.getElementById("cells-all").addEventListener("click", () => {
    const show = hidden.size > 0;
    legend.querySelectorAll("input").forEach((box, i) => { box.checked = show; show ? hidden.delete(i) : hidden.add(i); });
    draw();
  });

  // Viridis, from dark to yellow, in nine steps.
  const stops = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
  const ramp = Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * 8, low = Math.min(7, Math.floor(at)), weight = at - low;
    const mix = (k) => Math.round(parseInt(stops[low].slice(k, k + 2), 16) * (1 - weight) + parseInt(stops[low + 1].slice(k, k + 2), 16) * weight);
    return `rgb(${mix(0)},${mix(2)},${mix(4)})`;
  });
  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

  function draw() {
    const ratio = devicePixelRatio || 1, side = Math.max(1, canvas.clientWidth);
    canvas.width = canvas.height = Math.round(side * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, side, side);
    const slide = where.value === "umap" ? -1 : Number(where.value);
    const marker = colour.value === "cluster" ? -1 : Number(colour.value);
    const at = slide < 0 ? positions.umap : positions.tissue;
    const rows = [];
    for (let i = 0; i < data.n; i++) {
      if ((slide < 0 || slideOf[i] === slide) && !hidden.has(clusterOf[i])) rows.push(i);
    }
    if (marker >= 0) rows.sort((a, b) => values[marker * data.n + a] - values[marker * data.n + b]); // bright cells on top
    const radius = Math.max(1.1, Math.min(3.5, side / Math.sqrt(rows.length + 1) / 5)), margin = 8;
    drawn = rows.map((i) => ({
      i,
      x: margin + (at[2 * i] / 65535) * (side - 2 * margin),
      y: margin + (at[2 * i + 1] / 65535) * (side - 2 * margin),
    }));
    for (const { i, x, y } of drawn) {
      const cluster = data.clusters[clusterOf[i]];
      context.fillStyle = marker >= 0 ? ramp[values[marker * data.n + i]] : cluster ? cluster.color : "#d9d9d9";
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.fill();
    }
    if (marker >= 0) {
      const { name, low, high } = data.markers[marker];
      scale.textContent = `${name}: dark ${number(low)}, yellow ${number(high)} (mean intensity, logarithmic scale)`;
    } else {
      scale.textContent = `${drawn.length.toLocaleString("en")} of ${data.n.toLocaleString("en")} sampled cells shown`;
    }
    if (slide >= 0) scale.textContent += `; ${(data.slides[slide].um / 1000).toFixed(2)} mm across`;
    mark(drawn.some((one) => one.i === chosen) ? chosen : -1, true);
  }

  function mark(i, quiet) {
    if (!quiet && chosen >= 0) { chosen = i; draw(); return; }
    chosen = i;
    const point = drawn.find((one) => one.i === i);
    tip.hidden = !point;
    if (!point) return;
    context.lineWidth = 2;
    context.strokeStyle = "#000";
    context.beginPath();
    context.arc(point.x, point.y, 6, 0, 7);
    context.stroke();
    const cluster = data.clusters[clusterOf[i]];
    const marker = colour.value === "cluster" ? -1 : Number(colour.value);
    let text = `cell ${ids[i]}`;
    if (data.slides[slideOf[i]].name) text += ` of ${data.slides[slideOf[i]].name}`;
    text += cluster ? `, cluster ${cluster.name}${cluster.suggested ? ` (${cluster.suggested})` : ""}` : ", no cluster";
    if (marker >= 0) {
      const { name, low, high } = data.markers[marker], level = values[marker * data.n + i] / 255;
      text += `, ${name} about ${number(Math.expm1(Math.log1p(low) + level * (Math.log1p(high) - Math.log1p(low))))}`;
    }
    tip.textContent = text;
    tip.style.left = `${Math.min(point.x + 12, canvas.clientWidth - 40)}px`;
    tip.style.top = `${point.y + 12}px`;
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, nearest = 100;
    for (const one of drawn) {
      const distance = (one.x - x) ** 2 + (one.y - y) ** 2;
      if (distance < nearest) { nearest = distance; best = one.i; }
    }
    if (best !== chosen) mark(best);
  });
  canvas.addEventListener("pointerleave", () => chosen >= 0 && mark(-1));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Escape") mark(-1);
    if (!step || !drawn.length) return;
    event.preventDefault();
    const from = drawn.find((one) => one.i === chosen);
    if (!from) { mark(drawn[Math.floor(drawn.length / 2)].i); return; }
    let best = chosen, nearest = Infinity;
    for (const one of drawn) {
      const ahead = (one.x - from.x) * step[0] + (one.y - from.y) * step[1];
      const aside = Math.abs((one.x - from.x) * step[1]) + Math.abs((one.y - from.y) * step[0]);
      if (ahead > 2 && ahead + 3 * aside < nearest) { nearest = ahead + 3 * aside; best = one.i; }
    }
    mark(best);
  });
  where.addEventListener("change", draw);
  colour.addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
  document.getElementById("explore").hidden = false;
  document.documentElement.classList.add("interactive"); // the still image is for print
  draw();
}
