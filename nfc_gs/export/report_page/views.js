/* ---- photo and rendering in one place ---- */

function startSlider(slider) {
  const handle = slider.querySelector(".handle");
  let position = Number(slider.dataset.at);

  function slide(percent) {
    position = clamp(percent, 0, 100);
    slider.style.setProperty("--at", position + "%");
    handle.setAttribute("aria-valuenow", String(Math.round(position)));
    handle.setAttribute("aria-valuetext", `${Math.round(position)} % photo`);
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
  slide(position);
}

/* ---- views; the event "choose" asks for one, "chosen" says which it is ---- */

function startViews() {
  const order = () => [...document.querySelectorAll("tr[data-view]")].map((row) => Number(row.dataset.view));
  let chosen = 0;

  function choose(index) {
    chosen = index;
    const view = data.views[index];
    byId("view-name").textContent = view.name;
    byId("view-metrics").textContent = view.metrics;
    for (const [id, key, label] of [
      ["slide-truth", "truth", "Photo of "], ["slide-render", "render", "Rendering of "],
      ["image-truth", "truth", "Photo of "], ["image-render", "render", "Rendering of "],
      ["image-error", "error", "Error of the rendering of "],
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
    document.dispatchEvent(new CustomEvent("chosen", { detail: index }));
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
  document.addEventListener("choose", (event) => choose(event.detail));
  choose(0);
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
