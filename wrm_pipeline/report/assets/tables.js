"use strict";
// A table that sorts, filters, and can be saved.
const dataTable = (() => {
  const { t, el, number, percent, day, time, plain, locale, breakable } = site;
  const collator = new Intl.Collator(locale, { numeric: true });
  const shown = {
    number: (value, column) => number(value, column.digits ?? 0), percent: (value, column) => percent(value, column.digits ?? 0),
    day, time, flag: (value) => (value ? t("yes") : "–"), text: (value) => (value == null || value === "" ? "–" : String(value)),
  };

  // Spreadsheets evaluate CSV fields that look like a formula, so such text gets an apostrophe. Numbers stay numbers.
  const csvCell = (value) => {
    if (value == null) return "";
    if (typeof value === "number" || typeof value === "boolean") return String(value);
    const text = Array.isArray(value) ? value.join(", ") : String(value);
    return `"${(/^\s*[=+\-@\t\r\uFF1D\uFF0B\uFF0D\uFF20]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  };
  const csv = (keys, rows) =>
    `\uFEFF${[keys.map(csvCell), ...rows.map((row) => keys.map((key) => csvCell(row[key])))].map((cells) => cells.join(",")).join("\r\n")}\r\n`;
  const save = (name, text, type) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };

  // columns: key, label, kind (of `shown`), and perhaps digits, value(row) to sort by, cell(row) to show, code.
  // choices: label and test(row) for a list of subsets. fields: keys to save, default those of all columns.
  return (host, { label, columns, rows, sort, filter = false, choices = [], save: fileName, fields, row: decorate }) => {
    const value = (row, column) => (column.value ? column.value(row) : row[column.key]);
    const text = (row, column) => shown[column.kind ?? "text"](value(row, column), column);
    const keys = new Map(rows.map((row) => [row, plain(columns.map((column) => text(row, column)).join(" "))]));
    let order = sort ?? { key: columns[0].key, descending: false };
    let visible = rows;

    const body = el("tbody"), status = el("p", { role: "status", class: "quiet" });
    const heads = columns.map((column) => {
      const button = el("button", { type: "button", onclick: () => {
        const again = order.key === column.key;
        order = { key: column.key, descending: again ? !order.descending : Boolean(column.kind && !["text", "day"].includes(column.kind)) };
        draw();
      } }, column.label);
      return el("th", { scope: "col", class: column.kind ?? "text", "data-key": column.key }, button);
    });
    const draw = () => {
      const column = columns.find(({ key }) => key === order.key), sign = order.descending ? -1 : 1;
      const compare = (one, other) => {
        const a = value(one, column), b = value(other, column);
        if (a == null || b == null) return (a == null) - (b == null);
        return sign * (typeof a === "string" ? collator.compare(a, b) : a - b);
      };
      const words = plain(search?.value ?? "").split(/\s+/).filter(Boolean), test = choices[select?.value ?? 0]?.test;
      visible = rows.filter((row) => (!test || test(row)) && words.every((word) => keys.get(row).includes(word))).sort(compare);
      body.replaceChildren(...visible.map((row) => {
        const line = el("tr", {}, columns.map((column, i) => {
          const content = column.cell ? column.cell(row) : (column.kind ? text(row, column) : breakable(text(row, column)));
          return i ? el("td", { class: column.lang ? "text prose" : column.kind ?? "text", lang: column.lang }, content) : el("th", { scope: "row", class: column.kind ?? "text" }, content);
        }));
        decorate?.(line, row);
        return line;
      }));
      heads.forEach((head, i) => {
        if (columns[i].key === order.key) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      status.textContent = visible.length === rows.length ? t("{n} row|{n} rows", { n: rows.length })
        : t("{n} of {all} rows", { n: visible.length, all: rows.length });
    };

    const search = filter ? el("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: () => draw() }) : null;
    const select = choices.length ? el("select", { onchange: () => draw() },
      choices.map((choice, i) => el("option", { value: i }, choice.label))) : null;
    const saved = () => visible.map((row) => Object.fromEntries((fields ?? columns.map(({ key }) => key)).map((key) => [key, row[key] ?? null])));
    const bar = el("div", { class: "table-bar" },
      search && el("label", {}, el("span", {}, t("Filter")), search),
      select && el("label", {}, el("span", {}, t("Show")), select),
      status,
      fileName && el("span", { class: "saves" },
        el("button", { type: "button", class: "save-csv", onclick: () =>
          save(`${fileName}.csv`, csv(fields ?? columns.map(({ key }) => key), saved()), "text/csv;charset=utf-8") }, t("Save as CSV")),
        el("button", { type: "button", class: "save-json", onclick: () =>
          save(`${fileName}.json`, `${JSON.stringify(saved(), null, 1)}\n`, "application/json") }, t("Save as JSON"))));
    draw();
    host.append(bar, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
      el("table", { class: "data" }, el("thead", {}, el("tr", {}, heads)), body)));
  };
})();
