// Small pieces that the pages are built of. Text of the data only ever becomes text nodes.
"use strict";

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null) node.append(child);
  return node;
}

function number(x, digits) {
  if (x === null || x === undefined) return "";
  if (Number.isInteger(x) && digits === undefined) return x.toLocaleString("en");
  return Math.abs(x) >= 1e5 || (x !== 0 && Math.abs(x) < 1e-3) ? x.toExponential(2) : x.toFixed(digits ?? 3);
}

function percent(x) { return x === null || x === undefined ? "" : `${(100 * x).toFixed(1)} %`; }

// A table that sorts by its headers and filters by a text. columns: {name, value(row), show(row), numeric}.
function sortableTable(host, label, columns, rows, page = 50) {
  let shown = page, by = null, falling = false, words = "";
  // The roles are those of the elements. Some browsers forget them where the style makes lines of a table on a phone.
  const body = element("tbody", { role: "rowgroup" });
  const count = element("p", { class: "soft", role: "status" });
  const more = element("button", { class: "plain", type: "button", onclick: () => { shown += page; fill(); } }, "Show more");
  const search = element("input", { type: "search", "aria-label": `Search ${label}`, placeholder: "Search",
    oninput: (event) => { words = event.target.value.toLowerCase(); shown = page; fill(); } });
  const kind = (column) => column.numeric ? "number" : column.name === "text" ? "words" : null;
  const headers = columns.map((column) => element("th", { scope: "col", role: "columnheader", class: kind(column) },
    element("button", { type: "button", onclick: () => {
      falling = by === column ? !falling : Boolean(column.numeric);
      by = column;
      fill();
    } }, column.name)));
  const texts = new Map(rows.map((row) => [row, columns.map((column) => String(column.value(row) ?? "")).join("\n").toLowerCase()]));

  function fill() {
    const wanted = words.split(/\s+/).filter(Boolean);
    const matching = rows.filter((row) => wanted.every((word) => texts.get(row).includes(word)));
    if (by) matching.sort((a, b) => compare(by.value(a), by.value(b)) * (falling ? -1 : 1));
    headers.forEach((header, i) => header.setAttribute("aria-sort", columns[i] !== by ? "none" : falling ? "descending" : "ascending"));
    body.replaceChildren(...matching.slice(0, shown).map((row) => element("tr", { role: "row" },
      columns.map((column) => element("td", { role: "cell", class: kind(column), "data-name": column.name }, column.show ? column.show(row) : String(column.value(row) ?? ""))))));
    count.textContent = `${number(Math.min(shown, matching.length))} of ${number(matching.length)} rows shown`
      + (matching.length < rows.length ? `, of ${number(rows.length)} in all` : "");
    more.hidden = shown >= matching.length;
  }

  host.append(element("div", { class: "controls" }, search, count),
    element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label },
      element("table", { class: "stacking", role: "table" },
        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, headers)), body)), more);
  fill();
}

function compare(a, b) {
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
  if (b === null || b === undefined) return -1;
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}

// Charts. Each is made again when the colours of the system change.
const charts = [];
const style = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

function chart(host, label, makeSpec, options = {}) {
  const node = element("div", { class: "chart" });
  host.append(node);
  const own = { node, view: null, async draw() {
    own.view?.finalize();
    const ink = style("--ink"), soft = style("--soft"), line = style("--line");
    const spec = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 200,
      autosize: { type: "fit", contains: "padding" }, description: label, background: null, ...makeSpec(),
      config: { view: { stroke: null }, axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line,
        tickColor: line }, legend: { labelColor: ink, titleColor: soft }, text: { color: ink } } };
    own.view = new vega.View(vega.parse(vegaLite.compile(spec).spec), { renderer: options.renderer || "svg", container: node, hover: true });
    own.view.tooltip(showTip);
    if (options.click) own.view.addEventListener("click", (_, item) => item?.datum && options.click(item.datum));
    await own.view.runAsync();
  } };
  charts.push(own);
  own.draw().catch((error) => { node.textContent = `This chart cannot be drawn: ${error.message}`; });
  return own;
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((one) => one.draw()));

const tip = element("div", { class: "tip", role: "tooltip", hidden: true });

function showTip(_, event, item, value) {
  tip.hidden = value === null || value === undefined || value === "";
  if (tip.hidden) return;
  tip.textContent = typeof value === "object" ? Object.entries(value).map(([key, text]) => `${key}: ${text}`).join("\n") : String(value);
  if (!tip.isConnected) document.body.append(tip);
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8))}px`;
}
