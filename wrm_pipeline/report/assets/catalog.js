"use strict";
// The catalog: one folded entry per table, view and asset.
(() => {
  const { t, $, el, records, number, day, time, plain, notice, source, hash, breakable, prose } = site;
  const { tables, columns } = WRM.catalog;
  const ofTable = Map.groupBy(records(columns), (row) => row.table_name);
  const order = { table: 0, view: 1, asset: 2 };
  const fact = (term, value, lang) => (value == null || value === "" ? null : el("div", {}, el("dt", {}, term), el("dd", { lang }, breakable(value))));
  const columnTable = (rows) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("Columns") }, el("table", { class: "data columns" },
    el("thead", {}, el("tr", {}, [t("Column"), t("Type"), t("Unit"), t("Meaning"), t("Made from"), t("Samples")].map((label) => el("th", { scope: "col" }, label)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, breakable(row.column_name))), el("td", {}, el("code", {}, row.type)),
      el("td", {}, row.unit || "–"), el("td", { lang: "en" }, row.description), el("td", {}, breakable(row.sources || "–")), el("td", { class: "samples" }, row.samples || "–"))))));
  const entries = records(tables).sort((one, other) => order[one.kind] - order[other.kind] || one.name.localeCompare(other.name)).map((row) => {
    const own = row.kind === "asset" ? [] : ofTable.get(row.name) ?? [];
    const node = el("details", { class: "entry", id: `${row.kind}-${row.name}` },
      el("summary", {}, el("code", {}, breakable(row.name)), el("span", { class: "kind" }, t(row.kind)),
        el("span", { class: "quiet", lang: "en" }, prose(row.description.split(/(?<=\.)\s/)[0]))),
      el("p", { lang: "en" }, prose(row.description)),
      el("dl", { class: "facts" }, fact(t("Layer"), t(row.layer)), fact(t("Owner"), row.owner), fact(t("Made by"), row.asset), fact(t("Made from"), row.sources),
        fact(t("Refreshed"), row.refreshed_at && time(row.refreshed_at)), fact(t("Newest day"), row.newest_dt && day(row.newest_dt)),
        fact(t("Rows"), row.row_count == null ? null : `${number(row.row_count)} (${t(row.rows_counted)})`), fact(t("Place"), row.place)),
      own.length ? columnTable(own) : null);
    const own_key = plain([row.name, row.description].join(" "));
    return { node, key: own_key, columns: own.map((column) => plain([column.column_name, column.description, column.unit].join(" "))), lines: node.querySelectorAll("tbody tr") };
  });
  const find = () => {
    const words = plain($("#find").value).split(/\s+/).filter(Boolean);
    let shown = 0, found = 0;
    for (const entry of entries) {
      const named = words.every((word) => entry.key.includes(word));
      const hits = entry.columns.map((key) => words.every((word) => key.includes(word)));
      entry.node.hidden = words.length > 0 && !named && !hits.includes(true);
      entry.node.open = words.length > 0 && hits.includes(true);
      entry.lines.forEach((line, i) => { line.hidden = words.length > 0 && !named && !hits[i]; });
      shown += !entry.node.hidden;
      found += entry.node.hidden ? 0 : [...entry.lines].filter((line) => !line.hidden).length;
    }
    $("#find-status").textContent = t("{n} entry, {columns} columns|{n} entries, {columns} columns", { n: shown, columns: found });
  };
  $("#entries").append(...entries.map(({ node }) => node));
  if (!entries.length) $("#entries").append(notice(tables));
  $("#source").append(source(tables, columns));
  $("#find").addEventListener("input", find);
  find();
  const follow = () => {
    const node = document.getElementById(hash());
    if (node?.matches("details")) { node.open = true; node.scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  follow();
})();
