// The charts and tables of a report.
"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
facts.seed_texts = Object.fromEntries(facts.seeds.map((line) => [line.seed, line.text]));
const place = (id) => document.getElementById(id);
const POOL = () => style("--soft"), CHOSEN = () => style("--mark");

for (const histogram of facts.histograms) {
  const values = histogram.pool.flatMap((share, i) => [["pool", share], ["chosen", histogram.chosen[i]]].map(([rows, height]) =>
    ({ rows, share: height, from: histogram.edges[i], to: histogram.edges[i + 1] })));
  const figure = element("figure", {}, element("figcaption", {}, `${histogram.name}: median ${number(histogram.pool_median)} in the pool`
    + (histogram.chosen_median === null ? "" : `, ${number(histogram.chosen_median)} among the chosen rows`)));
  place("histograms").append(figure);
  chart(figure, `Distribution of ${histogram.name}, of the pool and of the chosen rows`, () => ({ data: { values },
    mark: { type: "bar", opacity: 0.55, tooltip: true },
    encoding: { x: { field: "from", bin: { binned: true }, type: "quantitative", title: histogram.name }, x2: { field: "to" },
      y: { field: "share", type: "quantitative", title: "share of the rows", stack: null, axis: { format: "%" } },
      color: { field: "rows", type: "nominal", title: null, scale: { domain: ["pool", "chosen"], range: [POOL(), CHOSEN()] },
        legend: { orient: "top" } },
      tooltip: [{ field: "rows" }, { field: "from", format: ".3~g" }, { field: "to", format: ".3~g" }, { field: "share", format: ".1%" }] } }));
}

if (facts.votes) {
  const most = facts.votes.voters;
  const values = facts.votes.counts.map((rows, votes) => ({ votes, rows, agreement: votes / most }));
  const least = facts.votes.threshold;
  const figure = element("figure", {}, element("figcaption", {}, `Rows by the ${facts.votes.kind} that they help`
    + (least === null ? "" : `; rows right of the dashed line reach the threshold of ${least}`)));
  place("votes").append(figure);
  chart(figure, `How many rows help how many ${facts.votes.kind}`, () => ({ data: { values }, layer: [
    { mark: { type: "bar", tooltip: true, color: CHOSEN() }, encoding: { x: { field: "votes", type: "quantitative", title: `${facts.votes.kind} helped, of ${most}`, scale: { domain: [0, most] } },
      y: { field: "rows", type: "quantitative" }, tooltip: [{ field: "votes" }, { field: "rows" }, { field: "agreement", format: ".3f" }] } },
    ...(least === null ? [] : [{ mark: { type: "rule", strokeDash: [4, 4], color: style("--ink") }, data: { values: [{ at: least - 0.5 }] },
      encoding: { x: { field: "at", type: "quantitative" } } }])] }));
}

if (facts.map) {
  const host = place("map-chart"), colour = place("map-colour"), form = place("map-form");
  const points = facts.map.rows.map((row, i) => {
    const card = facts.rows[row];
    return { row, layout: facts.map.layout[i], pca: facts.map.pca[i], score: card.score, loss: card.loss, cluster: card.cluster,
      source: facts.sources[card.source]?.name ?? "", chosen: card.place === null ? "not chosen" : "chosen", text: `row ${row}\n${card.text}` };
  });
  const ABOVE = { orient: "top" };  // beside the map it would take a third of a phone
  const encodings = {
    chosen: () => ({ field: "chosen", type: "nominal", title: null, legend: ABOVE, scale: { domain: ["not chosen", "chosen"], range: [POOL(), CHOSEN()] } }),
    score: () => ({ field: "score", type: "quantitative", legend: ABOVE, scale: { scheme: "viridis" } }),
    loss: () => ({ field: "loss", type: "quantitative", legend: ABOVE, scale: { scheme: "viridis" } }),
    cluster: () => ({ field: "cluster", type: "nominal", scale: { scheme: "category20" }, legend: null }),
    source: () => ({ field: "source", type: "nominal", scale: { scheme: "category10" },
      legend: { ...ABOVE, columns: Math.max(1, Math.floor(host.clientWidth / 190)) } }),
  };
  const map = chart(host, "Map of a sample of the rows", () => ({ height: 460,
    data: { values: points.map((point) => ({ ...point, x: point[form.value][0], y: point[form.value][1] })) },
    params: [{ name: "view", select: "interval", bind: "scales" }],
    mark: { type: "circle", size: 34, opacity: 0.75, cursor: "pointer" },
    encoding: { x: { field: "x", type: "quantitative", axis: null, scale: { zero: false } }, y: { field: "y", type: "quantitative", axis: null, scale: { zero: false } },
      order: { field: "chosen", sort: "descending" }, color: encodings[colour.value](), tooltip: { field: "text" } } }),
  { renderer: "canvas", click: (point) => point.row !== undefined && openRow(facts, point.row) });
  for (const control of [colour, form]) control.addEventListener("change", () => map.draw());
}

for (const card of facts.clusters) {
  place("cluster-cards").append(element("section", { class: "card", "aria-label": `cluster ${card.number}` },
    element("h3", {}, `Cluster ${card.number}`),
    element("p", { class: "soft" }, `${number(card.chosen)} of ${number(card.rows)} rows chosen` + (card.score === null ? "" : `, mean score ${number(card.score)}`)),
    element("div", {}, card.words.map((word) => element("span", { class: "word" }, word))),
    element("ol", {}, card.examples.map((row) => element("li", {}, rowLink(facts, row))))));
}

for (const name of ["best", "worst", "edge"]) {
  if (facts[name].length) sortableTable(place(name), `rows: ${name}`, rowColumns(facts), facts[name]);
}
if (facts.chosen.length) sortableTable(place("chosen"), "chosen rows", rowColumns(facts), facts.chosen);

if (facts.seeds.length) {
  const remark = (line) => [line.outvoted ? "outvoted" : null, line.hard ? "hard" : null].filter(Boolean).join(", ");
  sortableTable(place("seeds"), "seeds", [
    { name: "seed", numeric: true, value: (line) => line.seed, show: (line) => String(line.seed) },
    { name: "helped by, of the pool", numeric: true, value: (line) => line.pool, show: (line) => percent(line.pool) },
    { name: "of the chosen", numeric: true, value: (line) => line.chosen, show: (line) => percent(line.chosen) },
    { name: "with the others", numeric: true, value: (line) => line.agreement, show: (line) => number(line.agreement) },
    { name: "loss", numeric: true, value: (line) => line.loss, show: (line) => number(line.loss) },
    { name: "remark", value: remark }, { name: "text", value: (line) => line.text },
  ], facts.seeds, 20);
}

if (facts.overlap) drawOverlap(place("overlap-chart"), facts.overlap);
for (const pair of facts.repeats.pairs) {
  place("repeat-pairs").append(element("li", {}, `cosine ${pair[2].toFixed(3)}`, rowLink(facts, pair[0]), rowLink(facts, pair[1])));
}
document.body.dataset.ready = "yes";
