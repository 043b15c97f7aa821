"use strict";
// How good are we: the forecast, departures and rides against what is known to be true, and the feeds.
(() => {
  const { t, $, el, records, number, percent, day, dayShort, time, clock, figure, tile } = site;
  const { skill, skill_days: skillDays, flows, ledger, feeds, takeovers } = WRM.good;

  const hour = records(skill).find((row) => row.horizon_min === 60), [newest] = records(ledger), [flow] = records(flows), [feed] = records(feeds);
  if (hour) {
    const ratio = hour.error_mean / hour.error_mean_persistence;
    $("#verdict").append(
      tile(ratio <= 1 ? "good" : "bad", t("Forecast, an hour ahead"), t("{n} bikes off", { n: number(hour.error_mean, 2) }), t("{share} of the error if nothing changes", { share: percent(ratio) })),
      tile("", t("In the band"), percent(hour.share_in_band), t("80 % are meant")));
  }
  if (flow) $("#verdict").append(tile(Math.abs(flow.off_by) <= 0.03 ? "good" : "bad", t("Departures of a day"), percent(flow.off_by, 1), t("off the ledger, {day}", { day: day(flow.dt) })));
  if (newest?.share_found != null) $("#verdict").append(tile("", t("Rides found"), percent(newest.share_found, 1), t("of the ledger, {day}", { day: day(newest.dt) })));
  if (feed) {
    const today = records(feeds).filter((row) => row.dt === feed.dt), sum = (key) => today.reduce((total, row) => total + row[key], 0);
    $("#verdict").append(tile("", t("Believed"), percent(sum("sound") / Math.max(1, sum("snapshots")), 1), t("of all snapshots, {day}", { day: day(feed.dt) })));
  }

  const [over] = records(takeovers);
  if (over) {
    $("#feeds").before(el("p", {}, t("{begin} to {end}: {n} snapshot is from {feed} instead of {usual}.|{begin} to {end}: {n} snapshots are from {feed} instead of {usual}.", {
      begin: time(over.begins_at), end: time(over.ends_at), n: over.snapshots, feed: over.feed, usual: over.usual_feed,
    })), site.source(takeovers));
  }
  figure($("#feeds"), feeds, (rows) => dataTable($("#feeds"), {
    label: t("Feeds"), rows, sort: { key: "dt", descending: true }, save: "feeds",
    columns: [{ key: "dt", label: t("Day"), kind: "day" }, { key: "feed", label: t("Feed") },
      { key: "snapshots", label: t("Snapshots"), kind: "number" }, { key: "sound", label: t("Believed"), kind: "number" },
      { key: "published", label: t("Published"), kind: "number" },
      { key: "published_from", label: t("From hour"), kind: "time", cell: (row) => (row.published_from ? clock(row.published_from) : "") },
      { key: "published_to", label: t("To hour"), kind: "time", cell: (row) => (row.published_to ? clock(row.published_to) : "") },
      { key: "reason", label: t("What was seen"), lang: "en" }],
    fields: feeds.columns,
  }));

  const scored = $("#skill");
  if (!skill.missing.length && !skill.rows.length) scored.append(el("p", {}, t("No day is scored yet.")), site.source(skill));
  else figure(scored, skill, (rows) => dataTable(scored, {
    label: t("Forecast"), rows, sort: { key: "horizon_min", descending: false }, save: "skill",
    columns: [{ key: "horizon_min", label: t("Minutes ahead"), kind: "number" },
      { key: "error_mean", label: t("Mean error, bikes"), kind: "number", digits: 2 },
      { key: "error_mean_persistence", label: t("If nothing changes"), kind: "number", digits: 2 },
      { key: "brier_no_bike", label: t("Brier, no bike"), kind: "number", digits: 3 },
      { key: "brier_no_bike_persistence", label: t("Brier if nothing changes"), kind: "number", digits: 3 },
      { key: "share_in_band", label: t("In the band"), kind: "percent", digits: 0 }],
    fields: skill.columns,
  }));

  const byDay = $("#skill-days");
  if (!skillDays.missing.length && !skillDays.rows.length) byDay.append(el("p", {}, t("No day is scored yet.")), site.source(skillDays));
  else figure(byDay, skillDays, (rows) => {
    const ordered = rows.toReversed();
    chart(byDay, { title: t("Forecast an hour ahead, day by day"), first: t("Day"), labels: ordered.map((row) => dayShort(row.dt)), longLabels: ordered.map((row) => day(row.dt)), digits: 2, series: [
      { label: t("Mean error, bikes"), values: ordered.map((row) => row.error_mean), colour: "--c1", bars: true },
      { label: t("If nothing changes"), values: ordered.map((row) => row.error_mean_persistence), colour: "--c2", dashed: true }] });
  });

  // The ledger is a source of its own: without it this is no fault.
  const none = (host, dataset) => host.append(el("p", {}, t("No day's ledger has arrived yet.")), site.source(dataset));
  const flowHost = $("#flows");
  if (!flows.rows.length) none(flowHost, flows);
  else figure(flowHost, flows, (rows) => dataTable(flowHost, {
    label: t("Departures against the city's ledger"), rows, sort: { key: "dt", descending: true }, save: "departures-and-ledger", fields: flows.columns,
    columns: [{ key: "dt", label: t("Day"), kind: "day" }, { key: "rentals", label: t("In the ledger"), kind: "number" }, { key: "departures", label: t("Departures"), kind: "number" },
      { key: "departures_lo", label: t("at least"), kind: "number" }, { key: "departures_hi", label: t("at most"), kind: "number" },
      { key: "off_by", label: t("Off by"), kind: "percent", digits: 1 }],
  }));
  const ledgerHost = $("#ledger");
  if (!ledger.rows.length) none(ledgerHost, ledger);
  else figure(ledgerHost, ledger, (rows) => dataTable(ledgerHost, {
    label: t("Rides against the city's ledger"), rows, sort: { key: "dt", descending: true }, save: "ride-comparison", fields: ledger.columns,
    columns: [{ key: "dt", label: t("Day"), kind: "day" }, { key: "ledger_rides", label: t("In the ledger"), kind: "number" }, { key: "found", label: t("Found"), kind: "number" },
      { key: "missed", label: t("Missed"), kind: "number" }, { key: "invented", label: t("Invented"), kind: "number" },
      { key: "share_found", label: t("Found, share"), kind: "percent", digits: 1 }, { key: "share_invented", label: t("Invented, share"), kind: "percent", digits: 1 },
      { key: "failed_rentals", label: t("Failed rentals"), kind: "number" }, { key: "van_rides", label: t("Moved by van"), kind: "number" },
      { key: "unmatched_ends", label: t("Unknown stations"), kind: "number" }],
  }));
})();
