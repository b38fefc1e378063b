// How far the choices of several methods agree: a matrix of shares.
"use strict";

function drawOverlap(host, overlap) {
  const values = overlap.names.flatMap((one, i) => overlap.names.map((other, j) => ({ one, other, share: overlap.shares[i][j] })));
  chart(host, "Share of each method's rows that another method chooses too", () => ({ data: { values }, height: 120 + 26 * overlap.names.length,
    encoding: { x: { field: "other", type: "nominal", sort: overlap.names, title: "also chosen by", axis: { orient: "top", labelAngle: -40 } },
      y: { field: "one", type: "nominal", sort: overlap.names, title: "rows of" } },
    layer: [{ mark: { type: "rect", tooltip: true }, encoding: { color: { field: "share", type: "quantitative", scale: { domain: [0, 1], scheme: "blues" }, legend: null },
      tooltip: [{ field: "one" }, { field: "other" }, { field: "share", format: ".1%" }] } },
    { mark: { type: "text", fontSize: 10 }, encoding: { text: { field: "share", format: ".0%" },
      color: { condition: { test: "datum.share > 0.5", value: "white" }, value: "#1c2330" } } }] }));
}
