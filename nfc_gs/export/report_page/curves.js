/* ---- curves of the training ---- */

function startCurves() {
  const { train, test, changes } = data.curves;
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
  board.marks = changes.map(({ mark, label, step, seconds }) => ({ mark, label, at: { step, seconds } }));
  board.fill(byId("curves"), series);
  document.addEventListener("lapse", (event) => board.axis === "step" && board.hover(event.detail));
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
