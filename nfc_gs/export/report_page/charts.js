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

/* ---- charts ---- */

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
const [MARK_ROWS, MARK_ROW] = [2, 12]; // above a chart with marks
const dB = (v) => v.toFixed(2) + " dB";

/** How each horizontal axis is labelled, and the steps of its ticks where they are special. */
const AXES = {
  step: { label: formatCount },
  seconds: { label: formatSeconds, steps: CLOCK },
  time: { label: (v) => String(+v.toPrecision(6)) },
};

/** What each chart shows; a series has x, an array for each axis of its board, and y, arrays of one length. */
const CHARTS = {
  loss: { log: true, format: (v) => v.toPrecision(3), tick: (v) => String(+v.toPrecision(2)) },
  psnr: { format: dB, tick: (v) => String(+v.toFixed(2)) },
  gaussians: { zero: true, format: (v) => Math.round(v).toLocaleString("en-US"), tick: formatCount },
  time: { format: dB, tick: (v) => String(+v.toFixed(2)) },
};

/** Charts that share their horizontal axis, the marks on it ({mark, label, at}) and the place that is read out. */
class Board {
  /** tell(at, axis) says in words where that place is (null: nowhere); range: of the axis, else 0 to the last x. */
  constructor(axis, tell, range) {
    Object.assign(this, { axis, tell, range, charts: [], cross: null, marks: [] });
  }

  /** Make the charts below an element, one for each figure that has series with values; other figures go. */
  fill(element, series) {
    for (const figure of element.querySelectorAll("[data-chart]")) {
      const name = figure.dataset.chart;
      const shown = series[name].filter((s) => s.y.some((v) => v !== null));
      if (shown.length) this.charts.push(new Chart(this, figure, CHARTS[name], shown));
      else figure.remove();
    }
    new ResizeObserver(() => this.draw()).observe(element);
    this.draw();
  }

  draw() {
    for (const chart of this.charts) chart.draw();
    this.hover(this.cross);
  }

  hover(at) {
    this.cross = at;
    for (const chart of this.charts) chart.read(at);
    this.tell(at, this.axis);
  }
}

class Chart {
  constructor(board, figure, spec, series) {
    Object.assign(this, { board, figure, spec, series });
    this.svg = figure.querySelector("svg");
    this.legend = figure.querySelector(".legend");
    this.values = series.map((s) => {
      const item = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = s.color;
      const value = document.createElement("b");
      item.append(swatch, s.label + " ", value);
      if (!s.raw) this.legend.append(item);
      return value;
    });
    const at = (event) => this.inverse(event.clientX - this.svg.getBoundingClientRect().left);
    this.svg.addEventListener("pointermove", (event) => board.hover(at(event)));
    this.svg.addEventListener("pointerdown", (event) => board.hover(at(event)));
    this.svg.addEventListener("pointerleave", () => board.hover(null));
    this.svg.addEventListener("blur", () => board.hover(null));
    this.svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      const [low, high] = this.xRange;
      board.hover(clamp((board.cross ?? high) + (move * (high - low)) / 50, low, high));
      event.preventDefault();
    });
  }

  scales() {
    const box = this.svg.getBoundingClientRect();
    this.frame = { left: 46, right: box.width - 10, top: this.board.marks.length ? 8 + MARK_ROWS * MARK_ROW : 8, bottom: box.height - 24, width: box.width, height: box.height };
    const xs = this.series.flatMap((s) => s.x[this.board.axis]);
    this.xRange = this.board.range ?? [0, Math.max(...xs) || 1];
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
    const axis = AXES[this.board.axis];
    for (const v of ticks(...this.xRange, Math.max(2, (right - left) / 55), axis.steps)) {
      this.add("line", { class: "axis", x1: this.x(v), x2: this.x(v), y1: bottom, y2: bottom + 4 });
      const anchor = this.x(v) > right - 14 ? "end" : "middle";
      this.add("text", { x: this.x(v), y: bottom + 17, "text-anchor": anchor }, axis.label(v));
    }
    this.add("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
    this.drawMarks();
    const clip = this.add("clipPath", { id: "clip-" + this.figure.dataset.chart });
    clip.append(this.add("rect", { x: left - 6, y: top - 6, width: right - left + 12, height: bottom - top + 6 }));
    for (const s of this.series) this.line(s, clip.id);
    this.mark = this.add("line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" });
    this.dots = this.series.map((s) => this.add("circle", { r: 4.5, fill: s.color, visibility: "hidden" }));
  }

  /** Thin lines where something changed, with their letters above, in rows so that none hides another. */
  drawMarks() {
    const { left, right, top, bottom } = this.frame;
    const ends = new Array(MARK_ROWS).fill(-Infinity);
    for (const { mark, label, at } of this.board.marks) {
      const x = this.x(at[this.board.axis]);
      if (!(x >= left && x <= right)) continue;
      const free = ends.findIndex((end) => end + 10 <= x);
      const row = free < 0 ? ends.indexOf(Math.min(...ends)) : free;
      ends[row] = x;
      const y = top - (row + 1) * MARK_ROW + 8;
      const line = this.add("line", { class: "change", x1: x, x2: x, y1: y + 3, y2: bottom });
      const title = document.createElementNS(this.svg.namespaceURI, "title");
      title.textContent = label;
      line.append(title);
      this.add("text", { class: "change", x, y, "text-anchor": "middle" }, mark);
    }
  }

  line(series, clip) {
    let path = "";
    const xs = series.x[this.board.axis];
    series.y.forEach((v, i) => {
      if (v === null) return;
      const x = this.x(xs[i]).toFixed(1);
      path += path && !series.scattered ? (series.stairs ? `H${x}V` : `L${x} `) : `M${x} `;
      path += this.y(v).toFixed(1);
    });
    const style = `stroke:${series.color}`;
    this.add("path", { d: path || "M0 0", style, class: series.raw ? "raw" : "", "clip-path": `url(#${clip})` });
    if (!series.points) return;
    const r = xs.length > 60 ? 2.5 : 4;
    series.y.forEach((v, i) => {
      if (v !== null) this.add("circle", { cx: this.x(xs[i]), cy: this.y(v), r, fill: series.color });
    });
  }

  /** Show the values at x (null: what a series has to say at rest, or else its last one). */
  read(at) {
    if (!this.mark) return;
    this.mark.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at !== null) {
      this.mark.setAttribute("x1", this.x(at));
      this.mark.setAttribute("x2", this.x(at));
    }
    this.series.forEach((s, k) => {
      const xs = s.x[this.board.axis];
      const i = at === null ? s.y.length - 1 : nearest(xs, at);
      const v = s.y[i];
      const text = v === null ? "" : this.spec.format(v) + (s.extra ? s.extra(i) : "");
      this.values[k].textContent = at === null ? (s.rest ?? text) : text;
      const hidden = at === null || v === null || s.raw;
      this.dots[k].setAttribute("visibility", hidden ? "hidden" : "visible");
      if (!hidden) {
        this.dots[k].setAttribute("cx", this.x(xs[i]));
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
