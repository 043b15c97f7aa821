"use strict";
// Stations: a table of all, and a page for each, selected by the hash in the address.
(() => {
  const { t, $, el, records, number, percent, time, clock, dayLong, weekdayShort, hour, href, hash, notice, source, fillClass, fillLegend } = site;
  const { stations, former, week, coming, forecast, skill } = WRM.stations;
  const byId = (dataset) => new Map(records(dataset).map((row) => [row.station_id, row]));
  const weeks = byId(week), next = byId(coming), flows = byId(WRM.weeks.flows), forecasts = byId(forecast), skills = byId(skill), before = byId(former);
  const rows = records(stations).map((row) => ({
    ...row, former_names: before.get(row.station_id)?.names.join(", ") ?? null, share_empty: weeks.get(row.station_id)?.share_empty ?? null, share_full: weeks.get(row.station_id)?.share_full ?? null,
    bikes_mean: weeks.get(row.station_id)?.bikes_mean ?? null,
    empty_at: next.get(row.station_id)?.empty_at ?? null, full_at: next.get(row.station_id)?.full_at ?? null,
  }));
  const known = new Map(rows.map((row) => [row.station_id, row]));
  const flags = (row) => [
    row.over_capacity && t("more bikes than docks"), row.no_docks && t("no docks"), row.stale && t("old report"),
    row.outside_service_area && t("outside the area")].filter(Boolean);

  const formerly = (row) => t("formerly {names}", { names: row.former_names });

  const outside = rows.filter((row) => row.outside_service_area).length;
  if (outside) {
    $("#all .lead").append(" ", t("{n} of them lies outside the service area, so that City now counts one station less.|{n} of them lie outside the service area, so that City now counts as many less.", { n: outside }));
  }
  const host = $("#table");
  if (!rows.length) host.append(notice(stations));
  else {
    dataTable(host, {
      label: t("Stations"), rows, filter: true, save: "stations", sort: { key: "name", descending: false },
      fields: [...stations.columns, "former_names", "bikes_mean", "share_empty", "share_full", "empty_at", "full_at"],
      choices: [
        { label: t("all stations") }, { label: t("empty now"), test: (row) => row.empty },
        { label: t("full now"), test: (row) => row.full },
        { label: t("more bikes than docks"), test: (row) => row.over_capacity }, { label: t("no docks"), test: (row) => row.no_docks },
        { label: t("old report"), test: (row) => row.stale }, { label: t("outside the area"), test: (row) => row.outside_service_area },
        { label: t("soon empty"), test: (row) => row.empty_at && !row.empty }, { label: t("soon full"), test: (row) => row.full_at && !row.full }],
      columns: [
        // The former names are searched, too.
        { key: "name", label: t("Station"), value: (row) => [row.name, row.former_names].filter(Boolean).join(", "), cell: (row) => [
          el("a", { href: `#${encodeURIComponent(row.station_id)}` }, row.name), row.former_names && el("small", { class: "quiet" }, " ", formerly(row))] },
        { key: "station_id", label: t("Number") },
        { key: "bikes", label: t("Bikes"), kind: "number", cell: (row) => [
          el("span", { class: `dot ${fillClass(row.bikes, row.total_docks)}`, "aria-hidden": "true" }), number(row.bikes)] },
        { key: "spaces", label: t("Free docks"), kind: "number" }, { key: "total_docks", label: t("Docks"), kind: "number" },
        { key: "fill", label: t("Fill"), kind: "percent" },
        { key: "bikes_mean", label: t("Mean, 7 days"), kind: "number", digits: 1 },
        { key: "share_empty", label: t("Empty, 7 days"), kind: "percent" }, { key: "share_full", label: t("Full, 7 days"), kind: "percent" },
        { key: "empty_at", label: t("Empty at"), kind: "time", cell: (row) => (row.empty_at ? clock(row.empty_at) : "–") },
        { key: "full_at", label: t("Full at"), kind: "time", cell: (row) => (row.full_at ? clock(row.full_at) : "–") },
        { key: "flags", label: t("Flags"), value: (row) => flags(row).join(", ") }],
    });
  }
  host.append(source(stations, former, week, coming));

  // The week of a station: days by hours, or hours by days on a narrow screen.
  const narrow = matchMedia("(max-width: 760px)");
  const heat = (station) => {
    const mine = records(WRM.weeks.hours).filter((row) => row.station_id === station.station_id);
    if (!mine.length) return notice({ ...WRM.weeks.hours, missing: WRM.weeks.hours.missing });
    const most = Math.max(...mine.flatMap((row) => row.bikes)), scale = station.total_docks || most;
    const cell = (row, local) => {
      const i = row.local_hours.indexOf(local), value = i < 0 ? null : row.bikes[i];
      const said = value == null ? t("no data") : t("{day}, {hour}: {bikes} bikes on average, empty {empty}, full {full} of the hour", {
        day: weekdayShort(row.dt), hour: hour(local), bikes: number(value, 1), empty: percent(row.empty_percent[i] / 100), full: percent(row.full_percent[i] / 100) });
      return el("td", { class: `heat-cell ${fillClass(value, scale)}`, title: said }, value == null ? "" : number(Math.round(value)));
    };
    const hours = [...Array(24).keys()];
    const head = (text) => el("th", { scope: "col" }, text), side = (text) => el("th", { scope: "row" }, text);
    const lines = narrow.matches
      ? { head: mine.map((row) => head(weekdayShort(row.dt))), body: hours.map((local) => [side(String(local)), mine.map((row) => cell(row, local))]) }
      : { head: hours.map((local) => head(String(local))), body: mine.map((row) => [side(weekdayShort(row.dt)), hours.map((local) => cell(row, local))]) };
    return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("Week as a heat map") },
      el("table", { class: "heat" }, el("caption", { class: "hidden-label" }, t("Mean bikes by day and hour")),
        el("thead", {}, el("tr", {}, el("td"), lines.head)), el("tbody", {}, lines.body.map((cells) => el("tr", {}, cells)))));
  };
  const fact = (term, value) => el("div", {}, el("dt", {}, term), el("dd", {}, value));
  // The next six hours: what is expected, the band that 80 % of the counts fall into, and the chances of no bike and no dock.
  const ahead = (station) => {
    const mine = forecasts.get(station.station_id);
    if (!mine) return [];
    const scored = skills.get(station.station_id), score = (values, i) => values[scored.horizon_min.indexOf(mine.horizon_min[i])];
    const line = (label, cell) => el("tr", {}, el("th", { scope: "row" }, label), mine.target_at.map((_, i) => el("td", { class: "number" }, cell(i))));
    return [el("h2", {}, t("Its next six hours")), el("p", { class: "quiet" }, t("Forecast made at {time}. 80 % of the counts should lie in the band.", { time: clock(mine.made_at) })),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("Its next six hours") }, el("table", { class: "data" },
        el("caption", { class: "hidden-label" }, t("Its next six hours")),
        el("thead", {}, el("tr", {}, el("td"), mine.target_at.map((at) => el("th", { scope: "col", class: "number" }, clock(at))))),
        el("tbody", {}, line(t("Bikes expected"), (i) => number(mine.bikes_expected[i])),
          line(t("Band"), (i) => (mine.bikes_p10[i] == null ? "–" : `${number(mine.bikes_p10[i], 1)} – ${number(mine.bikes_p90[i], 1)}`)),
          line(t("Chance of no bike"), (i) => percent(mine.p_no_bike[i])), line(t("Chance of no free dock"), (i) => percent(mine.p_no_dock[i])),
          scored ? [line(t("Was in the band, 7 days"), (i) => percent(score(scored.share_in_band, i))), line(t("Was off by, bikes"), (i) => number(score(scored.error_mean, i), 1))] : null))),
      scored ? null : el("p", { class: "quiet" }, t("How often the band was right is not known yet: no day is scored.")), source(forecast, skill)];
  };
  const anomalies = (station) => {
    const dataset = WRM.quality.anomalies, mine = records(dataset).filter((row) => row.station_id === station.station_id);
    if (dataset.missing.length) return [];
    return [el("h2", {}, t("Anomalies of the last seven days")), mine.length
      ? el("ul", {}, mine.map((row) => el("li", {}, `${time(row.hour_start)}: `, el("span", { lang: "en" }, row.reason))))
      : el("p", {}, t("None.")), source(dataset)];
  };
  const page = (station) => {
    const flow = flows.get(station.station_id);
    return [
      el("p", {}, el("a", { href: "#", class: "back" }, t("← All stations"))),
      el("h1", { id: "one-h", tabindex: -1 }, station.name),
      el("p", { class: "lead" }, `${t("Station")} ${station.station_id} · ${t("as of {time}", { time: time(station.file_timestamp) })} · `,
        el("a", { href: href("index.html", station.station_id) }, t("on the map"))),
      station.former_names ? el("p", { class: "quiet" }, formerly(station)) : null,
      el("dl", { class: "tiles" }, fact(t("Bikes"), number(station.bikes)), fact(t("Free docks"), number(station.spaces)),
        fact(t("Docks"), station.total_docks ? number(station.total_docks) : t("unknown")), fact(t("Empty, 7 days"), percent(station.share_empty)),
        fact(t("Full, 7 days"), percent(station.share_full)),
        fact(t("Departures a day"), number(flow?.departures_per_day, 1)), fact(t("Arrivals a day"), number(flow?.arrivals_per_day, 1))),
      flags(station).length ? el("p", { class: "notice" }, `${t("Flags")}: ${flags(station).join(", ")}`) : null,
      station.empty_at && !station.empty ? el("p", {}, t("It is expected to be empty at {time}.", { time: clock(station.empty_at) })) : null,
      station.full_at && !station.full ? el("p", {}, t("It is expected to be full at {time}.", { time: clock(station.full_at) })) : null,
      ...ahead(station), el("h2", {}, t("Its week, mean bikes by hour")), fillLegend(), heat(station), source(WRM.weeks.hours, WRM.weeks.flows), ...anomalies(station)];
  };
  const pageTitle = document.title;
  const follow = (event) => {
    const id = hash(), station = known.get(id);
    $("#all").hidden = Boolean(id);
    $("#one").hidden = !id;
    $("#one").replaceChildren(...(!id ? [] : station ? page(station).filter(Boolean) : [
      el("p", {}, el("a", { href: "#" }, t("← All stations"))), el("h1", { id: "one-h", tabindex: -1 }, id),
      el("p", { class: "notice" }, t("There is no station {id} in the newest snapshot.", { id }))]));
    document.title = station ? `${station.name} · ${pageTitle}` : pageTitle;
    if (event?.type === "hashchange") { scrollTo(0, 0); if (id) $("#one-h").focus(); else $("#main").focus(); }
  };
  addEventListener("hashchange", follow);
  narrow.addEventListener("change", follow);
  follow();
})();
