/* ---- curves of the training ---- */

function startCurves() {
  const { train, test } = data.curves;
  const x = (part) => ({ step: part.step, seconds: part.seconds });
  const series = { loss: [], psnr: [], gaussians: [] };
  if (train) {
    series.loss.push({ label: "Raw", raw: true, color: "var(--train)", x: x(train), y: train.loss });
    series.loss.push({ label: "Train", color: "var(--train)", x: x(train), y: train.loss_smooth });
    series.psnr.push({ label: "Raw", raw: true, color: "var(--train)", x: x(train), y: train.psnr });
    series.psnr.push({ label: "Train", color: "var(--train)", x: x(train), y: train.psnr_smooth });
    series.gaussians.push({ label: "Gaussians", stairs: true, color: "var(--count)", x: x(train), y: train.gaussians });
  }
  if (test) {
    const extra = (i) => (test.ssim[i] === null ? "" : ", SSIM " + test.ssim[i].toFixed(3));
    series.psnr.push({ label: "Test", points: true, color: "var(--test)", x: x(test), y: test.psnr, extra });
  }
  const board = new Board("step", (at, axis) => {
    const times = train || test;
    const i = at === null ? times.step.length - 1 : nearest(times[axis], at);
    let text = "Step " + times.step[i].toLocaleString("en-US") + " · " + formatSeconds(times.seconds[i]);
    if (train && train.width[i]) text += ` · ${train.width[i]} × ${train.height[i]} px`;
    byId("readout").textContent = text;
  });
  for (const button of document.querySelectorAll("[data-axis]"))
    button.addEventListener("click", () => {
      board.axis = button.dataset.axis;
      board.cross = null;
      for (const b of document.querySelectorAll("[data-axis]")) b.setAttribute("aria-pressed", String(b === button));
      board.draw();
    });
  board.fill(document.querySelector("#curves"), series);
}

/* ---- motion ---- */

/** PSNR over the times of the held-out views. */
function startTimes() {
  const { range, times, labels, names, psnr, moving_psnr, psnr_all, moving_psnr_all } = data.motion;
  const distinct = new Set(times).size === times.length;
  const line = { x: { time: times }, points: true, scattered: !distinct };
  const inAll = (v, words) => (v === null ? "" : `${dB(v)} ${words}`);
  const series = [
    { ...line, label: "Whole picture", color: "var(--train)", y: psnr, rest: inAll(psnr_all, "on average") },
    { ...line, label: "Moving parts", color: "var(--test)", y: moving_psnr, rest: inAll(moving_psnr_all, "together") },
  ];
  const board = new Board("time", (at) => {
    const i = at === null ? null : nearest(times, at);
    byId("time-readout").textContent = i === null ? "" : `${labels[i]} · ${names[i]}`;
  }, range);
  board.fill(byId("times"), { time: series });
}

/** The video plays by itself, unless whoever looks has asked for less motion. */
function startVideo(video) {
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
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
if (data.motion) startTimes();
if (byId("loop")) startVideo(byId("loop"));
