/* ---- commands ---- */

/** Copies the command; where that is not allowed, selects it. */
async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

/* ---- everything there is on this page ---- */

for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
for (const slider of document.querySelectorAll(".slider")) startSlider(slider);
if (byId("map")) startMap(byId("map"));
if (byId("views")) startTable(byId("views"));
if (byId("stage")) startViews();
if (data.curves.train || data.curves.test) startCurves();
if (data.motion) startTimes();
if (data.timelapse) startLapse(data.timelapse);
if (byId("loop")) startVideo(byId("loop"));
