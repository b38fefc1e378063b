// A row that the page knows: a link that opens what is known of it. facts: rows by number, seeds, sources, run.
"use strict";

// A reason as text: a number, a word, or one number a task.
function plain(value) {
  if (typeof value === "number") return number(value);
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value).map(([key, part]) => Array.isArray(value) ? plain(part) : `${key}: ${plain(part)}`).join(", ");
}

function rowLink(facts, row, text) {
  const card = facts.rows[row];
  return element("button", { class: "row-link", type: "button", "aria-label": `row ${row}: show what is known of it`,
    onclick: () => openRow(facts, row) }, text ?? card?.text ?? `row ${row}`);
}

function openRow(facts, row) {
  const card = facts.rows[row];
  if (!card) return;
  const dialog = document.getElementById("row");
  const figures = [["score", number(card.score)], ["agreement", number(card.agreement)], ["loss", number(card.loss)],
    ["tokens", number(card.tokens)], ["cluster", card.cluster === null ? "" : String(card.cluster)],
    ...Object.entries(card.reasons).map(([name, value]) => [name, plain(value)])];
  const seeds = (title, effects, kind) => effects.length ? [element("h3", {}, title), element("ul", {}, effects.map(([seed, x]) =>
    element("li", {}, element("span", { class: kind }, `${x > 0 ? "+" : ""}${x.toPrecision(3)} `), `seed ${seed}: ${facts.seed_texts[seed] ?? ""}`)))] : [];
  dialog.replaceChildren(
    element("form", { method: "dialog" }, element("button", { class: "plain", autofocus: true }, "Close")),
    element("h2", { id: "row-title" }, `Row ${row}`), element("p", { class: "soft" }, card.where),
    element("p", {}, card.place === null ? "Not in the run's last selection." : `Chosen: place ${card.place}` + (facts.n_chosen ? ` of ${facts.n_chosen}.` : " in the run's last selection.")),
    element("div", { class: "text" }, card.text),
    element("ul", { class: "figures" }, figures.filter(([, value]) => value !== "").map(([name, value]) => element("li", {}, name, element("b", {}, value)))),
    ...seeds("Helps most", card.helped, "good"), ...seeds("Harms most", card.harmed, "bad"),
    ...(card.near.length ? [element("h3", {}, "Nearest rows of the map"), element("ul", {}, card.near.map(([other, cosine]) =>
      element("li", {}, `${cosine.toFixed(3)} `, rowLink(facts, other))))] : []),
    element("p", { class: "soft" }, "Token by token: ", element("code", {}, `gdig explain ${facts.run} ${row}`)));
  if (!dialog.open) dialog.showModal();
}

function rowColumns(facts) {
  const card = (row) => facts.rows[row];
  const has = (name) => Object.values(facts.rows).some((one) => one[name] !== null);
  return [
    { name: "place", numeric: true, value: (row) => card(row).place, show: (row) => number(card(row).place) },
    { name: "row", numeric: true, value: (row) => row, show: (row) => String(row) },
    ...(has("score") ? [{ name: "score", numeric: true, value: (row) => card(row).score, show: (row) => number(card(row).score) },
      { name: "agreement", numeric: true, value: (row) => card(row).agreement, show: (row) => number(card(row).agreement) }] : []),
    { name: "loss", numeric: true, value: (row) => card(row).loss, show: (row) => number(card(row).loss) },
    { name: "tokens", numeric: true, value: (row) => card(row).tokens, show: (row) => number(card(row).tokens) },
    ...(has("cluster") ? [{ name: "cluster", numeric: true, value: (row) => card(row).cluster, show: (row) => String(card(row).cluster ?? "") }] : []),
    { name: "text", value: (row) => card(row).text, show: (row) => rowLink(facts, row) },
  ];
}
