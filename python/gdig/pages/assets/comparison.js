// The matrix and the tables of a comparison.
"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
drawOverlap(document.getElementById("overlap-chart"), facts.overlap);
facts.sides.forEach((side, i) => {
  if (side.shown.length) sortableTable(document.getElementById(`side-${i}`), `rows of ${side.name} alone`, rowColumns(facts), side.shown, 20);
});
document.body.dataset.ready = "yes";
