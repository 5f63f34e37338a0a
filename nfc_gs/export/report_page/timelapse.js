/* ---- time-lapse ---- */

const LAPSE_MS = 220; // for each picture

function startLapse(frames) {
  const image = byId("lapse");
  const at = byId("lapse-at");
  const play = byId("lapse-play");
  let timer = null;

  function show(number) {
    const { step, uri } = frames[number];
    at.value = String(number);
    at.setAttribute("aria-valuetext", `Step ${step}`);
    image.src = uri;
    image.alt = `The view at step ${step} of the training`;
    byId("lapse-step").textContent = "Step " + step.toLocaleString("en-US");
    document.dispatchEvent(new CustomEvent("lapse", { detail: number === frames.length - 1 ? null : step }));
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "\u25b6";
    play.setAttribute("aria-label", "Play the time-lapse");
  }

  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(at.value) === frames.length - 1) show(0);
    play.textContent = "\u275a\u275a";
    play.setAttribute("aria-label", "Pause the time-lapse");
    timer = setInterval(() => {
      show(Number(at.value) + 1);
      if (Number(at.value) === frames.length - 1) stop();
    }, LAPSE_MS);
  });
  at.addEventListener("input", () => { stop(); show(Number(at.value)); });
}
