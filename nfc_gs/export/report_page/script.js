"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

/* ---- numbers as words ---- */

function formatCount(v) {
  if (v >= 1e6) return (v / 1e6).toFixed(v >= 1e7 ? 0 : 1).replace(/\.0$/, "") + "M";
  if (v >= 1e4) return (v / 1e3).toFixed(v >= 1e5 ? 0 : 1).replace(/\.0$/, "") + "k";
  return Math.round(v).toLocaleString("en-US");
}

function formatSeconds(v) {
  if (v < 60) return (v < 10 && v % 1 ? v.toFixed(1) : Math.round(v)) + " s";
  const minutes = Math.floor(Math.round(v) / 60);
  const seconds = Math.round(v) % 60;
  if (minutes < 60) return minutes + " min" + (seconds ? " " + seconds + " s" : "");
  return Math.floor(minutes / 60) + " h" + (minutes % 60 ? " " + (minutes % 60) + " min" : "");
}

/* ---- curves ---- */

/** Round steps between ticks; about `count` of them between low and high. */
function ticks(low, high, count, steps) {
  const rough = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = (steps || [1, 2, 5, 10].map((s) => s * power)).find((s) => s >= rough * 0.999) || rough;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step || 0);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const m of [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) found.push(m * 10 ** p);
  return found;
}

const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
const dB = (v) => v.toFixed(2) + " dB";

/** What each chart shows; a series has x = {step, seconds} and y, arrays of one length. */
const CHARTS = {
  loss: { log: true, format: (v) => v.toPrecision(3), tick: (v) => String(+v.toPrecision(2)) },
  psnr: { format: dB, tick: (v) => String(+v.toFixed(2)) },
  gaussians: { zero: true, format: (v) => Math.round(v).toLocaleString("en-US"), tick: formatCount },
};

const charts = [];
let axis = "step";

class Chart {
  constructor(figure, spec, series) {
    Object.assign(this, { figure, spec, series });
    this.svg = figure.querySelector("svg");
    this.legend = figure.querySelector(".legend");
    this.values = series.map((s) => {
      const item = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = s.colour;
      const value = document.createElement("b");
      item.append(swatch, s.label + " ", value);
      if (!s.raw) this.legend.append(item);
      return value;
    });
    const at = (event) => this.inverse(event.clientX - this.svg.getBoundingClientRect().left);
    this.svg.addEventListener("pointermove", (event) => hover(at(event)));
    this.svg.addEventListener("pointerdown", (event) => hover(at(event)));
    this.svg.addEventListener("pointerleave", () => hover(null));
    this.svg.addEventListener("blur", () => hover(null));
    this.svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      const [low, high] = this.xRange;
      hover(clamp((cross ?? high) + (move * (high - low)) / 50, low, high));
      event.preventDefault();
    });
  }

  scales() {
    const box = this.svg.getBoundingClientRect();
    this.frame = { left: 46, right: box.width - 10, top: 8, bottom: box.height - 24, width: box.width, height: box.height };
    const xs = this.series.flatMap((s) => s.x[axis]);
    this.xRange = [0, Math.max(...xs)];
    if (!this.xRange[1]) this.xRange[1] = 1;
    const ys = this.series.filter((s) => !s.raw).flatMap((s) => s.y.filter((v) => v !== null));
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    this.log = Boolean(this.spec.log) && low > 0 && high / low > 5;
    if (this.spec.zero) low = 0;
    if (this.log) [low, high] = [low / 1.1, high * 1.1];
    else {
      const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      [low, high] = [this.spec.zero ? 0 : low - pad, high + pad];
    }
    this.yRange = [low, high];
  }

  x(v) {
    const { left, right } = this.frame;
    return left + ((v - this.xRange[0]) / (this.xRange[1] - this.xRange[0])) * (right - left);
  }

  y(v) {
    const { top, bottom } = this.frame;
    const f = this.log ? Math.log : (t) => t;
    const [low, high] = this.yRange;
    return bottom - ((f(Math.max(v, this.log ? low / 1e3 : v)) - f(low)) / (f(high) - f(low))) * (bottom - top);
  }

  inverse(px) {
    const { left, right } = this.frame;
    return this.xRange[0] + clamp((px - left) / (right - left), 0, 1) * (this.xRange[1] - this.xRange[0]);
  }

  add(name, attributes, text) {
    const node = document.createElementNS(this.svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    this.svg.append(node);
    return node;
  }

  draw() {
    this.scales();
    this.svg.replaceChildren();
    this.mark = null;
    if (this.frame.width < 100) return; // not laid out yet
    const { left, right, top, bottom, width, height } = this.frame;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const yTicks = this.log ? logTicks(...this.yRange) : ticks(...this.yRange, 5);
    for (const v of yTicks) {
      this.add("line", { class: "grid", x1: left, x2: right, y1: this.y(v), y2: this.y(v) });
      this.add("text", { x: left - 8, y: this.y(v) + 4, "text-anchor": "end" }, this.spec.tick(v));
    }
    for (const v of ticks(...this.xRange, Math.max(2, (right - left) / 55), axis === "seconds" ? CLOCK : null)) {
      this.add("line", { class: "axis", x1: this.x(v), x2: this.x(v), y1: bottom, y2: bottom + 4 });
      const anchor = this.x(v) > right - 14 ? "end" : "middle";
      const label = axis === "seconds" ? formatSeconds(v) : formatCount(v);
      this.add("text", { x: this.x(v), y: bottom + 17, "text-anchor": anchor }, label);
    }
    this.add("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
    const clip = this.add("clipPath", { id: "clip-" + this.figure.dataset.chart });
    clip.append(this.add("rect", { x: left - 6, y: top - 6, width: right - left + 12, height: bottom - top + 6 }));
    for (const s of this.series) this.line(s, clip.id);
    this.mark = this.add("line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" });
    this.dots = this.series.map((s) => this.add("circle", { r: 4.5, fill: s.colour, visibility: "hidden" }));
  }

  line(series, clip) {
    let path = "";
    series.y.forEach((v, i) => {
      if (v === null) return;
      const x = this.x(series.x[axis][i]).toFixed(1);
      path += path ? (series.stairs ? `H${x}V` : `L${x} `) : `M${x} `;
      path += this.y(v).toFixed(1);
    });
    const style = `stroke:${series.colour}`;
    this.add("path", { d: path || "M0 0", style, class: series.raw ? "raw" : "", "clip-path": `url(#${clip})` });
    if (!series.points) return;
    series.y.forEach((v, i) => {
      if (v !== null) this.add("circle", { cx: this.x(series.x[axis][i]), cy: this.y(v), r: 4, fill: series.colour });
    });
  }

  /** Show the values at x (null: the last ones). */
  read(at) {
    if (!this.mark) return;
    this.mark.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at !== null) {
      this.mark.setAttribute("x1", this.x(at));
      this.mark.setAttribute("x2", this.x(at));
    }
    this.series.forEach((s, k) => {
      const i = at === null ? s.y.length - 1 : nearest(s.x[axis], at);
      const v = s.y[i];
      this.values[k].textContent = v === null ? "" : this.spec.format(v) + (s.extra ? s.extra(i) : "");
      const hidden = at === null || v === null || s.raw;
      this.dots[k].setAttribute("visibility", hidden ? "hidden" : "visible");
      if (!hidden) {
        this.dots[k].setAttribute("cx", this.x(s.x[axis][i]));
        this.dots[k].setAttribute("cy", this.y(v));
      }
    });
  }
}

function nearest(sorted, at) {
  let best = 0;
  sorted.forEach((v, i) => { if (Math.abs(v - at) <= Math.abs(sorted[best] - at)) best = i; });
  return best;
}

let cross = null;

function hover(at) {
  cross = at;
  for (const chart of charts) chart.read(at);
  const train = data.curves.train;
  const times = train || data.curves.test;
  const i = at === null ? times.step.length - 1 : nearest(times[axis], at);
  let text = "Step " + times.step[i].toLocaleString("en-US") + " · " + formatSeconds(times.seconds[i]);
  if (train && train.width[i]) text += ` · ${train.width[i]} × ${train.height[i]} px`;
  byId("readout").textContent = text;
}

function startCurves() {
  const { train, test } = data.curves;
  const x = (part) => ({ step: part.step, seconds: part.seconds });
  const series = { loss: [], psnr: [], gaussians: [] };
  if (train) {
    series.loss.push({ label: "Raw", raw: true, colour: "var(--train)", x: x(train), y: train.loss });
    series.loss.push({ label: "Train", colour: "var(--train)", x: x(train), y: train.loss_smooth });
    series.psnr.push({ label: "Raw", raw: true, colour: "var(--train)", x: x(train), y: train.psnr });
    series.psnr.push({ label: "Train", colour: "var(--train)", x: x(train), y: train.psnr_smooth });
    series.gaussians.push({ label: "Gaussians", stairs: true, colour: "var(--count)", x: x(train), y: train.gaussians });
  }
  if (test) {
    const extra = (i) => (test.ssim[i] === null ? "" : ", SSIM " + test.ssim[i].toFixed(3));
    series.psnr.push({ label: "Test", points: true, colour: "var(--test)", x: x(test), y: test.psnr, extra });
  }
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const shown = series[figure.dataset.chart].filter((s) => s.y.some((v) => v !== null));
    if (shown.length) charts.push(new Chart(figure, CHARTS[figure.dataset.chart], shown));
    else figure.remove();
  }
  const redraw = () => {
    for (const chart of charts) chart.draw();
    hover(cross);
  };
  for (const button of document.querySelectorAll("[data-axis]"))
    button.addEventListener("click", () => {
      axis = button.dataset.axis;
      cross = null;
      for (const b of document.querySelectorAll("[data-axis]")) b.setAttribute("aria-pressed", String(b === button));
      redraw();
    });
  new ResizeObserver(redraw).observe(document.querySelector(".charts"));
  redraw();
}

/* ---- pictures ---- */

function startPictures() {
  const slider = byId("slider");
  const handle = byId("handle");
  let position = 50;

  function slide(percent) {
    position = clamp(percent, 0, 100);
    slider.style.setProperty("--at", position + "%");
    handle.setAttribute("aria-valuenow", String(Math.round(position)));
    handle.setAttribute("aria-valuetext", `${Math.round(position)} % ground truth`);
  }

  function follow(event) {
    const box = slider.getBoundingClientRect();
    slide(((event.clientX - box.left) / box.width) * 100);
  }

  slider.addEventListener("pointerdown", (event) => {
    slider.setPointerCapture(event.pointerId);
    follow(event);
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });
  slider.addEventListener("pointermove", (event) => {
    if (slider.hasPointerCapture(event.pointerId)) follow(event);
  });
  handle.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
    if (!(event.key in move)) return;
    slide(position + move[event.key]);
    event.preventDefault();
  });
  slide(50);

  const order = () => [...document.querySelectorAll("tr[data-view]")].map((row) => Number(row.dataset.view));
  let chosen = 0;

  function choose(index) {
    chosen = index;
    const view = data.views[index];
    byId("view-name").textContent = view.name;
    byId("view-metrics").textContent = view.metrics;
    for (const [id, key, label] of [
      ["slide-truth", "truth", "Ground truth of "], ["slide-render", "render", "Render of "],
      ["image-truth", "truth", "Ground truth of "], ["image-render", "render", "Render of "],
      ["image-error", "error", "Error of the render of "],
    ]) {
      byId(id).src = view[key];
      byId(id).alt = label + view.name;
      byId(id).width = view.width;
      byId(id).height = view.height;
    }
    const pictures = byId("pictures");
    pictures.className = "pictures " + (view.width < view.height ? "tall" : "wide");
    pictures.style.setProperty("--aspect", view.width / view.height);
    for (const row of document.querySelectorAll("tr[data-view]")) {
      const current = Number(row.dataset.view) === index;
      row.classList.toggle("chosen", current);
      row.querySelector("button").setAttribute("aria-pressed", String(current));
    }
    byId("view-count").textContent = `${order().indexOf(index) + 1} of ${data.views.length}`;
  }

  const go = (by) => {
    const rows = order();
    choose(rows[(rows.indexOf(chosen) + by + rows.length) % rows.length]);
  };
  byId("previous").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  for (const row of document.querySelectorAll("tr[data-view]"))
    row.addEventListener("click", () => choose(Number(row.dataset.view)));
  document.addEventListener("sorted", () => choose(chosen));
  choose(data.first);
}

/* ---- table ---- */

function startTable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? "";
      const compare = column
        ? (a, b) => (key(a) === "" ? -Infinity : Number(key(a))) - (key(b) === "" ? -Infinity : Number(key(b))) || 0
        : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      const rows = [...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a)));
      body.append(...rows);
      document.dispatchEvent(new Event("sorted"));
    });
  });
}

const table = byId("views");
if (table) startTable(table);
if (data.views.length) startPictures();
if (data.curves.train || data.curves.test) startCurves();
