// Compare the runs whose boxes are checked: what differs, side by side, and the curves of their series.
// `options` and `table` come from table.js. The script that holds the series of a run is loaded when the run is checked.

const COLOURS = 8; // as many as site.css has
const chosen = new Map(); // the boxes that are checked, by the number of the row
const seriesOf = new Map(); // by the address of the page
const bar = document.getElementById("chosen"), panel = document.getElementById("comparison");
const SVG = "http://www.w3.org/2000/svg";

window.receiveSeries = series => seriesOf.set(document.currentScript.dataset.page, series);

function make(parent, tag, text = "", attributes = {}) {
  const svg = parent instanceof SVGElement || tag === "svg";
  const child = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  child.textContent = text;
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  return parent.appendChild(child);
}

const unescape = text => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
const shown = value => value === null ? "" : typeof value === "object" ? unescape(value.short || value.text)
  : typeof value === "string" ? unescape(value) : String(value);
const number = value => String(Number(value.toPrecision(6)));

function load(page) {
  if (seriesOf.has(page)) return Promise.resolve();
  return new Promise(resolve => {
    const script = make(document.head, "script", "", {"data-page": page});
    script.onload = resolve;
    script.onerror = () => { seriesOf.set(page, {}); resolve(); };
    script.src = page.replace(/html$/, "js");
  });
}

function drawTable(rows) {
  const head = make(make(make(panel, "div", "", {class: "scroll"}), "table"), "tbody");
  const first = make(head, "tr");
  make(first, "th");
  rows.forEach((row, index) => {
    const cell = make(first, "th", "", {scope: "col", class: `colour-${index % COLOURS}`});
    make(cell, "a", shown(options.data[row][0]), {href: options.pages[row]});
  });
  options.headings.forEach((heading, index) => {
    const values = rows.map(row => shown(options.data[row][index]));
    if (!index || new Set(values).size < 2 || options.alwaysDiffer.includes(index)) return;
    const line = make(head, "tr");
    make(line, "th", heading, {scope: "row"});
    for (const value of values) make(line, "td", value);
  });
  if (head.rows.length === 1) make(panel, "p", "Nothing differs.", {class: "note"});
}

function drawCurves(rows) {
  const all = rows.map(row => seriesOf.get(options.pages[row]) || {});
  const figures = make(panel, "div", "", {class: "curves"});
  for (const name of new Set(all.flatMap(series => Object.keys(series)))) {
    const curves = all.map(series => series[name] || [[], []]);
    const xs = curves.flatMap(([x]) => x), ys = curves.flatMap(([, y]) => y).filter(y => y !== null);
    if (!ys.length) continue;
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const px = x => 8 + 344 * (right > left ? (x - left) / (right - left) : 0.5);
    const py = y => 116 - 100 * (high > low ? (y / 2 - low / 2) / (high / 2 - low / 2) : 0.5);
    const figure = make(figures, "figure");
    make(figure, "figcaption", name.length > 44 ? `…${name.slice(-43)}` : name, {title: name});
    const svg = make(figure, "svg", "", {viewBox: "0 0 360 150", role: "img", "aria-label": `Curves of ${name}`});
    make(svg, "path", "", {d: "M0 132H360", class: "axis-line"});
    for (const [text, x, y, anchor] of [[number(high), 8, 11, "start"], [number(low), 8, 128, "start"],
      [left, 8, 147, "start"], [right, 352, 147, "end"]]) {
      make(svg, "text", text, {x, y, "text-anchor": anchor});
    }
    curves.forEach(([x, y], index) => {
      const d = y.map((value, i) => value === null ? ""
        : `${i && y[i - 1] !== null ? "L" : "M"}${px(x[i]).toFixed(1)} ${py(value).toFixed(1)}`).join("");
      if (d) make(make(svg, "path", "", {d: `${d}h0`, class: `curve-${index % COLOURS}`}), "title", shown(options.data[rows[index]][0]));
    });
  }
}

async function update() {
  const rows = [...chosen.keys()].sort((a, b) => a - b);
  bar.hidden = !rows.length;
  bar.querySelector("span").textContent = `${rows.length} run${rows.length === 1 ? "" : "s"} chosen`;
  bar.querySelector("button").hidden = rows.length < 2;
  if (rows.length > 1) await Promise.all(rows.map(row => load(options.pages[row])));
  if (rows.length !== chosen.size || !rows.every(row => chosen.has(row))) return; // Another box was clicked meanwhile.
  panel.hidden = rows.length < 2;
  if (panel.hidden) return;
  panel.replaceChildren();
  make(panel, "h2", "Comparison");
  drawTable(rows);
  drawCurves(rows);
}

document.getElementById("runs").addEventListener("change", event => {
  const box = event.target;
  if (!box.matches("input.choose")) return;
  if (box.checked) chosen.set(Number(box.value), box); else chosen.delete(Number(box.value));
  update();
});
const [compare, clear] = bar.querySelectorAll("button");
compare.addEventListener("click", () => panel.scrollIntoView({behavior: "smooth"}));
clear.addEventListener("click", () => {
  for (const box of chosen.values()) box.checked = false;
  chosen.clear();
  update();
});

// A hash on the page of a run leads here: show only the runs that used the same content.
function filterByData() {
  const match = /^#data=([0-9a-zA-Z]+)$/.exec(location.hash);
  const notice = document.getElementById("content");
  notice.hidden = !match;
  if (match) {
    const rows = new Set(options.users[match[1]]);
    notice.querySelector("code").textContent = match[1];
    table.search.fixed("data", (text, data, index) => rows.has(index));
  } else {
    table.search.fixed("data", null);
  }
  table.draw();
}
addEventListener("hashchange", filterByData);
filterByData();
