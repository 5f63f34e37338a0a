/* ---- map of the cameras ---- */

/** A camera under the mouse or the keyboard's focus is named; a click, a tap or Enter shows its view. */
function startMap(map) {
  const marks = [...map.querySelectorAll(".camera")];
  const readout = byId("map-readout");
  let chosen = null;
  let current = marks.length - 1;

  const say = (number) => { readout.textContent = number === null ? "\u00a0" : data.map[number].words; };

  function focus(number) {
    current = (number + marks.length) % marks.length;
    for (const [i, mark] of marks.entries()) mark.setAttribute("tabindex", i === current ? "0" : "-1");
  }

  function pick(number) {
    const { views } = data.map[number];
    if (!views.length) return;
    const next = views[(views.indexOf(chosen) + 1) % views.length];
    document.dispatchEvent(new CustomEvent("choose", { detail: next }));
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("stage").scrollIntoView({ block: "nearest", behavior: still ? "auto" : "smooth" });
  }

  marks.forEach((mark, number) => {
    mark.addEventListener("pointerenter", () => say(number));
    mark.addEventListener("pointerleave", () => say(chosenMark()));
    mark.addEventListener("focus", () => say(number));
    mark.addEventListener("click", () => { focus(number); say(number); pick(number); });
    mark.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (move) {
        focus(current + move);
        marks[current].focus();
      } else if (event.key === "Enter" || event.key === " ") pick(number);
      else return;
      event.preventDefault();
    });
  });

  function chosenMark() {
    const number = data.map.findIndex((each) => each.views.includes(chosen));
    return number < 0 ? null : number;
  }

  document.addEventListener("chosen", (event) => {
    chosen = event.detail;
    marks.forEach((mark, number) => mark.classList.toggle("chosen", data.map[number].views.includes(chosen)));
    say(chosenMark());
  });
  focus(current);
}
