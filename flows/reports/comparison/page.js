"use strict";
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// Without this script there is no button, and no word of one: what they say stands in the page as text, or is hidden.
all(".scripted").forEach((each) => each.toggleAttribute("hidden", false));
function button(label, kind, pressed) {
  const made = Object.assign(document.createElement("button"), { type: "button", className: kind });
  if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
  Object.assign(made.dataset, label.dataset);
  made.append(...label.childNodes);
  return made;
}
all(".toggle").forEach((label) => label.replaceWith(button(label, "toggle", true)));
all(".scale").forEach((label) => label.replaceWith(button(label, "scale", false)));
all(".sortable thead th").forEach((head) => head.append(button(head, "")));

// Tables: a click on a column's button sorts by it, a second one the other way; what has no value comes last.
for (const head of all(".sortable thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const compare = (one, other) => {
      const [a, b] = [one, other].map((row) => row.cells[column].dataset.order);
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    };
    all("th[aria-sort]", table).forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    body.append(...[...body.rows].sort(compare));
  });
}

for (const section of all(".dataset")) {
  // Curves: linear or logarithmic losses; each experiment is shown or hidden in all charts.
  const scale = section.querySelector(".scale");
  scale?.addEventListener("click", () => {
    const logarithmic = scale.getAttribute("aria-pressed") === "false";
    scale.setAttribute("aria-pressed", logarithmic);
    for (const chart of all("figure.both", section)) {
      for (const path of all("path[data-other]", chart)) {
        const drawn = path.getAttribute("d");
        path.setAttribute("d", path.dataset.other);
        path.dataset.other = drawn;
      }
      chart.querySelector(".linear").toggleAttribute("hidden", logarithmic);
      chart.querySelector(".logarithmic").toggleAttribute("hidden", !logarithmic);
    }
  });
  const off = new Set();
  for (const toggle of all(".toggle", section)) {
    toggle.addEventListener("click", () => {
      const shown = toggle.getAttribute("aria-pressed") === "false", number = toggle.dataset.series;
      toggle.setAttribute("aria-pressed", shown);
      off[shown ? "delete" : "add"](number);
      all(`.charts g[data-series="${number}"]`, section).forEach((line) => line.toggleAttribute("hidden", !shown));
    });
  }
  for (const figure of all(".charts figure", section)) hover(figure, off);
}

// Values at the epoch below the pointer, or at the one that the arrow keys reach.
function hover(figure, off) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const [svg, tip, cursor] = ["svg", ".tip", ".cursor"].map((selector) => figure.querySelector(selector));
  const epochs = [...new Set(data.series.flatMap((each) => each.epochs))].sort((a, b) => a - b);
  let at = epochs.length - 1;
  const hide = () => [tip, cursor].forEach((each) => each.toggleAttribute("hidden", true));
  const show = () => {
    const epoch = epochs[at], x = data.left + ((epoch - 1) / (data.last - 1)) * (data.right - data.left);
    const rows = data.series.filter((each) => !off.has(String(each.number)) && each.epochs.includes(epoch));
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: `epoch ${epoch}` }));
    for (const { number, name, epochs, values } of rows) {
      const row = document.createElement("div");
      row.innerHTML = `<span class="swatch c${Number(number)}"></span><span></span><span></span>`;
      row.children[1].textContent = name;
      row.children[2].textContent = values[epochs.indexOf(epoch)] ?? "not finite";
      tip.append(row);
    }
    const isLeft = x < data.width / 2;
    tip.style.left = isLeft ? `${(100 * (x + 10)) / data.width}%` : "auto";
    tip.style.right = isLeft ? "auto" : `${100 - (100 * (x - 10)) / data.width}%`;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    [tip, cursor].forEach((each) => each.toggleAttribute("hidden", false));
  };
  svg.setAttribute("tabindex", 0);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * data.width;
    const wanted = 1 + ((x - data.left) / (data.right - data.left)) * (data.last - 1);
    at = epochs.reduce((best, epoch, i) => (Math.abs(epoch - wanted) < Math.abs(epochs[best] - wanted) ? i : best), 0);
    show();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show());
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    at = Math.min(epochs.length - 1, Math.max(0, at + step));
    show();
  });
}
