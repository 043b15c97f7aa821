"use strict";
// Data quality: whether today's data can be trusted.
(() => {
  const { t, $, el, records, number, percent, day, dayShort, time, clock, href, figure } = site;
  const { accounting, rules, anomalies, profile, freshness } = WRM.quality;
  const sums = (row) => row.lines_in === row.rows_out + row.dead_lettered + row.duplicate_rows + row.remark_lines;

  const [newest] = records(accounting), firing = records(rules).filter((row) => row.newest_hits > 0);
  if (newest) {
    const share = newest.dead_lettered / Math.max(1, newest.lines_in);
    $("#verdict").append(
      site.tile("", t("Newest day"), day(newest.dt), t("{n} snapshot, the last {time}|{n} snapshots, the last {time}", { n: newest.snapshots, time: time(newest.last_snapshot) })),
      site.tile(sums(newest) ? "good" : "bad", t("Lines accounted for"), sums(newest) ? t("all") : t("not all"), t("{n} line in|{n} lines in", { n: newest.lines_in })),
      site.tile(share > 0.01 ? "bad" : "good", t("Dead letters"), number(newest.dead_lettered), t("{share} of the lines; an entry of the queue holds several", { share: percent(share, 2) })));
  }
  if (rules.rows.length) $("#verdict").append(site.tile("", t("Rules that fired"), `${number(firing.length)} / ${number(rules.rows.length)}`, t("on the newest day")));
  if (!anomalies.missing.length) $("#verdict").append(site.tile("", t("Anomalies"), number(anomalies.rows.length), t("in seven days")));

  figure($("#accounting"), accounting, (rows) => {
    const ordered = rows.toReversed();
    const labels = ordered.map((row) => dayShort(row.dt)), longLabels = ordered.map((row) => day(row.dt));
    const pair = el("div", { class: "pair" }), left = el("div"), right = el("div");
    pair.append(left, right);
    $("#accounting").append(pair);
    chart(left, { title: t("Snapshots by day"), first: t("Day"), labels, longLabels, series: [
      { label: t("snapshots"), values: ordered.map((row) => row.snapshots), colour: "--c1", bars: true }] });
    chart(right, { title: t("Dead letters by day"), first: t("Day"), labels, longLabels, series: [
      { label: t("dead letters"), values: ordered.map((row) => row.dead_lettered), colour: "--c2", bars: true }] });
    dataTable($("#accounting"), {
      label: t("Where the lines went"), rows: rows.map((row) => ({ ...row, adds_up: sums(row) })), sort: { key: "dt", descending: true }, save: "accounting",
      columns: [{ key: "dt", label: t("Day"), kind: "day" }, { key: "snapshots", label: t("Snapshots"), kind: "number" },
        { key: "lines_in", label: t("Lines in"), kind: "number" }, { key: "rows_out", label: t("Rows published"), kind: "number" },
        { key: "dead_lettered", label: t("Dead letters"), kind: "number" }, { key: "duplicate_rows", label: t("Duplicates"), kind: "number" },
        { key: "remark_lines", label: t("Remarks"), kind: "number" },
        { key: "adds_up", label: t("Adds up"), cell: (row) => (row.adds_up ? t("yes") : el("strong", { class: "bad" }, t("no"))), value: (row) => Number(row.adds_up) },
        { key: "first_snapshot", label: t("First snapshot"), kind: "time", cell: (row) => clock(row.first_snapshot) }, { key: "last_snapshot", label: t("Last snapshot"), kind: "time", cell: (row) => clock(row.last_snapshot) }],
    });
  });

  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  // 28 days as small bars; the numbers next to them say most of it.
  const bars = (values) => {
    const most = Math.max(1, ...values);
    return svg("svg", { class: "spark", viewBox: `0 0 ${4 * Math.max(values.length, 14)} 20`, width: 4 * Math.max(values.length, 14), height: 20, "aria-hidden": "true" },
      ...values.map((value, i) => svg("rect", { x: 4 * i, width: 3, height: Math.max(value ? 1.5 : 0, (20 * value) / most), y: 20 - Math.max(value ? 1.5 : 0, (20 * value) / most) })));
  };
  figure($("#rules"), rules, (rows) => dataTable($("#rules"), {
    label: t("Rules fired"), rows, sort: { key: "hits_28_days", descending: true }, save: "rules",
    columns: [{ key: "rule", label: t("Rule") }, { key: "severity", label: t("Severity"), value: (row) => t(row.severity) },
      { key: "newest_hits", label: t("Newest day"), kind: "number" },
      { key: "newest_share", label: t("Share of rows"), kind: "percent", digits: 2, value: (row) => (row.newest_rows ? row.newest_hits / row.newest_rows : null) },
      { key: "hits_28_days", label: t("28 days"), kind: "number" },
      { key: "hits_by_day", label: t("By day"), value: (row) => row.hits_28_days, cell: (row) => bars(row.hits_by_day ?? []) },
      { key: "reason", label: t("Reason"), lang: "en" }],
    fields: ["rule", "severity", "newest_dt", "newest_hits", "newest_rows", "hits_28_days", "hits_by_day", "reason"],
  }));
  const quiet = $("#anomalies");
  if (!anomalies.missing.length && !anomalies.rows.length) quiet.append(el("p", {}, t("None.")), site.source(anomalies));
  else figure(quiet, anomalies, (rows) => dataTable(quiet, {
    label: t("Anomalies"), rows, filter: true, sort: { key: "score", descending: true }, save: "anomalies",
    columns: [{ key: "name", label: t("Station"), cell: (row) => el("a", { href: href("stations.html", row.station_id) }, row.name ?? row.station_id) },
      { key: "hour_start", label: t("Hour"), kind: "time" }, { key: "score", label: t("Score"), kind: "number", digits: 2 },
      { key: "reason", label: t("Reason"), lang: "en" }, { key: "method", label: t("Method") }],
    fields: anomalies.columns,
  }));
  figure($("#profile"), profile, (rows) => dataTable($("#profile"), {
    label: t("Profile of the newest day"), rows, sort: { key: "column_name", descending: false }, save: "profile",
    columns: [{ key: "column_name", label: t("Column") }, { key: "rows", label: t("Rows"), kind: "number" },
      { key: "nulls", label: t("Nulls"), kind: "number" }, { key: "distinct_values", label: t("Distinct"), kind: "number" },
      { key: "minimum", label: t("Minimum") }, { key: "maximum", label: t("Maximum") },
      { key: "mean", label: t("Mean"), kind: "number", digits: 3 }, { key: "drift", label: t("Drift"), kind: "number", digits: 3 }],
    fields: profile.columns,
  }));
  figure($("#freshness"), freshness, (rows) => dataTable($("#freshness"), {
    label: t("Freshness"), rows, sort: { key: "refreshed_at", descending: false },
    columns: [{ key: "name", label: t("Name") }, { key: "kind", label: t("Kind"), value: (row) => t(row.kind) },
      { key: "refreshed_at", label: t("Refreshed"), kind: "time" }, { key: "newest_dt", label: t("Newest day"), kind: "day" },
      { key: "asset", label: t("Made by") }],
    fields: freshness.columns,
  }));
})();
