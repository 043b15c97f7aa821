"use strict";
// Plan: where a van is needed, what was lost, which stations are empty or full longest, and when they gain or lose bikes.
(() => {
  const { t, $, el, records, number, percent, day, clock, time, hour, href, notice, source, figure } = site;
  const { stations, vans, lost, lost_hours: lostHours, ranking, imbalance } = WRM.plan;
  const places = new Map(records(stations).map((row) => [row.station_id, row]));
  const named = (rows) => rows.map((row) => ({ ...row, name: row.name ?? places.get(row.station_id)?.name ?? row.station_id }));
  const station = { key: "name", label: t("Station"), cell: (row) => el("a", { href: href("stations.html", row.station_id) }, row.name) };
  const inView = [...places.values()].filter(smallMap.inside);

  const vanHost = $("#vans"), needs = named(records(vans)), what = { bring: t("bring bikes"), take: t("take bikes away") };
  if (!vans.missing.length && !needs.length) vanHost.append(el("p", {}, t("No station needs a van in the next six hours.")));
  else if (!needs.length) vanHost.append(notice(vans));
  else {
    const map = smallMap(vanHost, t("Map of the stations that need a van; arrow keys move it, plus and minus zoom"), inView);
    for (const row of needs.filter(({ station_id }) => places.has(station_id))) {
      const { lat, lon } = places.get(row.station_id);
      map.circle(lat, lon, 4 + 1.5 * Math.sqrt(Math.abs(row.bikes_to_move ?? 0)), row.van === "take" ? "gains" : "loses",
        `${row.name}: ${what[row.van] ?? row.van}, ${number(Math.abs(row.bikes_to_move))}`);
    }
    vanHost.append(el("ul", { class: "fills" }, el("li", {}, el("span", { class: "dot loses", "aria-hidden": "true" }), what.bring), el("li", {}, el("span", { class: "dot gains", "aria-hidden": "true" }), what.take)));
    dataTable(vanHost, {
      label: t("Where a van is needed"), rows: needs, filter: true, save: "vans", sort: { key: "needed_by", descending: false }, fields: vans.columns,
      choices: [{ label: t("all") }, { label: what.bring, test: (row) => row.van === "bring" }, { label: what.take, test: (row) => row.van === "take" }],
      columns: [station, { key: "van", label: t("What to do"), value: (row) => what[row.van] ?? row.van }, { key: "bikes_to_move", label: t("Bikes to move"), kind: "number" },
        { key: "needed_by", label: t("Needed by"), kind: "time", cell: (row) => (row.needed_by ? clock(row.needed_by) : "–") },
        { key: "bikes", label: t("Bikes now"), kind: "number" }, { key: "total_docks", label: t("Docks"), kind: "number" },
        { key: "chance", label: t("Chance of it"), kind: "percent", value: (row) => (row.van === "take" ? row.p_no_dock : row.p_no_bike) },
        { key: "hit_rate", label: t("Was right so far"), kind: "percent" }],
    });
    vanHost.append(el("p", { class: "quiet" }, t("as of {time}", { time: time(needs[0].file_timestamp) })));
  }
  vanHost.append(source(vans, stations));

  const lostHost = $("#lost");
  figure(lostHost, lostHours, (rows) => {
    const at = new Map(rows.map((row) => [row.local_hour, row])), all = [...Array(24).keys()];
    const values = (key) => all.map((local) => at.get(local)?.[key] ?? 0);
    const total = rows.reduce((sum, row) => sum + row.departures_lost, 0);
    const half = Math.sqrt(rows.reduce((sum, row) => sum + ((row.departures_lost_hi - row.departures_lost_lo) / 2) ** 2, 0));
    lostHost.append(el("p", { class: "lead" }, t("{first} to {last}: about {n} departures were lost, between {low} and {high}.", {
      first: day(rows.map((row) => row.first_dt).sort()[0]), last: day(rows.map((row) => row.last_dt).sort().at(-1)),
      n: Math.round(total), low: Math.max(0, Math.round(total - half)), high: Math.round(total + half) })));
    chart(lostHost, { title: t("Lost departures by hour"), first: t("Hour"), labels: all.map(String), longLabels: all.map(hour), digits: 1, series: [
      { label: t("lost departures"), values: values("departures_lost"), colour: "--c1", bars: true },
      { label: t("at least"), values: values("departures_lost_lo"), colour: "--c2", dashed: true },
      { label: t("at most"), values: values("departures_lost_hi"), colour: "--c3", dashed: true }] });
  });
  const lostStations = $("#lost-stations");
  figure(lostStations, lost, (rows) => dataTable(lostStations, {
    label: t("Lost departures by station"), rows: named(rows), filter: true, save: "lost-demand", sort: { key: "departures_lost", descending: true }, fields: [...lost.columns, "name"],
    columns: [station, { key: "departures_lost", label: t("Lost departures"), kind: "number", digits: 1 }, { key: "departures_lost_lo", label: t("at least"), kind: "number", digits: 1 },
      { key: "departures_lost_hi", label: t("at most"), kind: "number", digits: 1 }, { key: "hours_empty", label: t("Hours empty"), kind: "number", digits: 1 },
      { key: "days", label: t("Days with an empty hour"), kind: "number" }],
  }));

  const ranked = $("#ranking");
  figure(ranked, ranking, (rows) => dataTable(ranked, {
    label: t("Longest empty or full"), rows: named(rows), filter: true, save: "ranking", sort: { key: "empty_h", descending: true }, fields: [...ranking.columns, "name"],
    columns: [station, { key: "empty_h", label: t("Empty, h a working day"), kind: "number", digits: 1 }, { key: "full_h", label: t("Full, h a working day"), kind: "number", digits: 1 },
      { key: "empty_h_weekend", label: t("Empty, h a weekend day"), kind: "number", digits: 1 }, { key: "full_h_weekend", label: t("Full, h a weekend day"), kind: "number", digits: 1 },
      { key: "days", label: t("Days"), kind: "number" }],
  }));

  const balance = $("#imbalance");
  figure(balance, imbalance, (rows) => {
    const kinds = [false, true].filter((free) => rows.some((row) => row.free_day === free));
    const kind = el("select", { id: "kind" }, kinds.map((free) => el("option", { value: String(free) }, free ? t("Saturday, Sunday") : t("Monday to Friday"))));
    const slider = el("input", { type: "range", id: "hour", min: 0, max: 23, value: 8, "aria-label": t("Hour") }), shownHour = el("output", { class: "replay-time", for: "hour" });
    const table = el("div");
    balance.append(el("div", { class: "replay-bar" }, el("label", { for: "kind" }, t("Days")), kind, slider, shownHour),
      el("ul", { class: "fills" }, el("li", {}, el("span", { class: "dot loses", "aria-hidden": "true" }), t("loses bikes")), el("li", {}, el("span", { class: "dot gains", "aria-hidden": "true" }), t("gains bikes"))));
    const map = smallMap(balance, t("Map of stations that gain and lose bikes; arrow keys move it, plus and minus zoom"), inView);
    balance.append(table);
    let now = new Map();
    const marks = new Map(inView.map((place) => [place.station_id, map.circle(place.lat, place.lon, 2, "fill-none", () => `${place.name}: ${number(now.get(place.station_id)?.imbalance, 1)}`)]));
    const look = () => {
      const local = Number(slider.value);
      slider.setAttribute("aria-valuetext", hour(local));
      shownHour.textContent = hour(local);
      const here = named(rows.filter((row) => String(row.free_day) === kind.value && row.local_hours.includes(local)).map((row) => {
        const i = row.local_hours.indexOf(local);
        return { station_id: row.station_id, days: row.days, imbalance: row.imbalance[i], arrivals: row.arrivals[i], departures: row.departures[i] };
      }));
      now = new Map(here.map((row) => [row.station_id, row]));
      for (const [id, mark] of marks) {
        const value = now.get(id)?.imbalance ?? 0;
        mark.show(2 + 3.5 * Math.sqrt(Math.abs(value)), value > 0 ? "gains" : value < 0 ? "loses" : "fill-none");
      }
      table.replaceChildren();
      dataTable(table, {
        label: t("Gains and losses by station"), rows: here, filter: true, save: "imbalance", sort: { key: "imbalance", descending: false },
        columns: [station, { key: "imbalance", label: t("Gain in the hour"), kind: "number", digits: 1 }, { key: "arrivals", label: t("Arrivals"), kind: "number", digits: 1 },
          { key: "departures", label: t("Departures"), kind: "number", digits: 1 }, { key: "days", label: t("Days"), kind: "number" }],
      });
    };
    slider.addEventListener("input", look);
    kind.addEventListener("change", look);
    look();
  });
})();
