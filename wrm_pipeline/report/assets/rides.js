"use strict";
// Rides: flows by hour with their ranges, rides between stations on the map, bikes that stand longest.
(() => {
  const { t, $, el, records, number, day, dayShort, dayLong, time, hour, href, notice, source, figure } = site;
  const { stations, hours, days, turnover, known, pairs, idle, free } = WRM.rides;
  const places = new Map(records(stations).map((row) => [row.station_id, row]));
  const name = (id) => places.get(id)?.name ?? (id || t("outside stations"));
  const link = (id) => (places.has(id) ? el("a", { href: href("stations.html", id) }, name(id)) : name(id));

  const hourRows = records(hours), byDay = new Map(records(days).map((row) => [row.dt, row]));
  const flows = (date) => {
    const host = $("#hours"), here = hourRows.filter((row) => row.dt === date), total = byDay.get(date);
    const exact = here.every((row) => row.estimate !== null && row.estimate_lo === row.estimate_hi);
    host.replaceChildren();
    window.wrmCharts.length = 0;
    if (!here.length) host.append(notice(hours));
    else {
      chart(host, {
        title: t("Departures by hour"), first: t("Hour"), labels: here.map((row) => String(row.local_hour)), longLabels: here.map((row) => hour(row.local_hour)),
        series: [
          { label: exact ? t("departures, known") : t("departures, estimate"), values: here.map((row) => row.estimate), colour: "--c1", bars: true },
          ...(exact ? [] : [{ label: t("at least"), values: here.map((row) => row.estimate_lo), colour: "--c2", dashed: true },
            { label: t("at most"), values: here.map((row) => row.estimate_hi), colour: "--c3", dashed: true }]),
          { label: t("seen in the counts"), values: here.map((row) => row.seen), colour: "--quiet", dashed: true }],
      });
    }
    host.append(source(hours));
    $("#rides-summary").textContent = !total ? "" : total.departures === null ? t("{day}: departures are unknown: the snapshots are too far apart.", { day: dayLong(date) }) : exact ? t("{day}: {n} departures from stations, all of known bikes.", { day: dayLong(date), n: Math.round(total.departures) }) : t("{day}: {n} departures from stations, between {low} and {high}.", {
      day: dayLong(date), n: Math.round(total.departures), low: Math.round(total.departures_lo), high: Math.round(total.departures_hi) });
  };
  const dates = [...new Set(hourRows.map((row) => row.dt))].sort().reverse();
  dayPicker(dates, flows, dates.find((date) => hourRows.filter((row) => row.dt === date).length >= 23));

  const perDay = $("#per-day"), used = new Map(records(turnover).map((row) => [row.dt, row])), seen = new Map(records(known).map((row) => [row.dt, row]));
  const dayRows = [...new Set([...byDay.keys(), ...used.keys(), ...seen.keys()])].sort().reverse().map((dt) => ({
    ...byDay.get(dt), ...used.get(dt), ...seen.get(dt), dt, rides: used.get(dt)?.rides ?? seen.get(dt)?.rides ?? null }));
  if (!dayRows.length) perDay.append(notice(days));
  else {
    const methods = { bikes: t("bikes known"), counts: t("from counts") };
    dataTable(perDay, {
      label: t("Day by day"), rows: dayRows, sort: { key: "dt", descending: true }, save: "rides",
      columns: [{ key: "dt", label: t("Day"), kind: "day" }, { key: "departures", label: t("Departures"), kind: "number" },
        { key: "departures_lo", label: t("at least"), kind: "number" }, { key: "departures_hi", label: t("at most"), kind: "number" },
        { key: "rides", label: t("Rides"), kind: "number" }, { key: "bikes", label: t("Bikes"), kind: "number" },
        { key: "rides_per_bike", label: t("Rides per bike"), kind: "number", digits: 2 }, { key: "method", label: t("How"), value: (row) => methods[row.method] ?? null },
        { key: "round_trips", label: t("Round trips"), kind: "number" }, { key: "relocations", label: t("Moved by van"), kind: "number" },
        { key: "minutes_median", label: t("Minutes, median"), kind: "number", digits: 1 }, { key: "km_median", label: t("Straight km, median"), kind: "number", digits: 2 }],
    });
  }
  perDay.append(source(days, turnover, known));

  const unknown = () => el("p", { class: "unknown" }, t("Which bike is where is not known: only the operator's feed says it (operator in WRM_FEEDS). Departures above are estimated from counts."));
  const nothing = (dataset) => (dataset.missing.length ? notice(dataset) : unknown());

  const flowsHost = $("#pairs"), pairRows = records(pairs).filter((row) => places.has(row.left_station_id) && places.has(row.arrived_station_id));
  if (!pairRows.length) flowsHost.append(nothing(pairs));
  else {
    const box = el("div"), SHOWN = 200;
    const select = el("select", { id: "pair-station" }, el("option", { value: "" }, t("the whole city")),
      [...places.values()].map((row) => el("option", { value: row.station_id }, `${row.name} (${row.station_id})`)));
    const status = el("p", { class: "quiet", role: "status" });
    flowsHost.append(el("p", { class: "row" }, el("label", { for: "pair-station" }, t("Rides of")), select), status, box);
    const firstDay = pairRows.map((row) => row.first_dt).sort()[0], lastDay = pairRows.map((row) => row.last_dt).sort().at(-1);
    const draw = () => {
      const id = select.value;
      const mine = pairRows.filter((row) => !id || row.left_station_id === id || row.arrived_station_id === id);
      const shown = mine.slice(0, SHOWN), most = Math.max(1, ...shown.map((row) => row.rides)), total = new Map();
      for (const row of mine) for (const end of [row.left_station_id, row.arrived_station_id]) total.set(end, (total.get(end) ?? 0) + row.rides);
      box.replaceChildren();
      const map = smallMap(box, t("Map of rides between stations; arrow keys move it, plus and minus zoom"), [...places.values()].filter(smallMap.inside));
      for (const row of shown.toReversed()) {
        const [from, to] = [places.get(row.left_station_id), places.get(row.arrived_station_id)];
        map.line([from.lat, from.lon], [to.lat, to.lon], 1 + (7 * row.rides) / most, id && row.arrived_station_id === id ? "flow arrives" : "flow",
          `${from.name} → ${to.name}: ${t("{n} ride|{n} rides", { n: row.rides })}`);
      }
      for (const place of [...places.values()].filter(smallMap.inside)) {
        const rides = total.get(place.station_id) ?? 0;
        map.circle(place.lat, place.lon, 2 + Math.sqrt(rides) / 6, rides ? "busy" : "fill-none", `${place.name}: ${t("{n} ride|{n} rides", { n: rides })}`);
      }
      const period = { shown: shown.length, first: day(firstDay), last: day(lastDay) };
      status.textContent = id ? t("{shown} connections that are among the city's {n} busiest, {first} to {last}.", { ...period, n: pairRows.length })
        : t("The {shown} busiest of {n} connections, {first} to {last}.", { ...period, n: pairRows[0].pairs });
      window.wrmFlows = { lines: shown.length, stations: places.size };
    };
    select.addEventListener("change", draw);
    draw();
    dataTable(flowsHost, {
      label: t("Rides between stations"), rows: pairRows.map((row) => ({ ...row, from: name(row.left_station_id), to: name(row.arrived_station_id) })).slice(0, 500),
      filter: true, save: "origin-destination", sort: { key: "rides", descending: true }, fields: [...pairs.columns, "from", "to"],
      columns: [{ key: "from", label: t("From"), cell: (row) => link(row.left_station_id) }, { key: "to", label: t("To"), cell: (row) => link(row.arrived_station_id) },
        { key: "rides", label: t("Rides"), kind: "number" }, { key: "minutes", label: t("Minutes, median"), kind: "number", digits: 1 }],
    });
  }
  flowsHost.append(source(pairs, stations));

  const standing = $("#idle");
  const bikes = records(idle).length ? records(idle) : records(free);
  if (!records(idle).length) standing.append(idle.missing.length ? notice(idle) : unknown());
  if (!records(idle).length && bikes.length) standing.append(el("p", {}, t("Free-standing bikes are in every feed; these stand since the time given, or longer if that is the beginning of the day.")));
  if (bikes.length) {
    dataTable(standing, {
      label: t("Bikes that stand longest"), rows: bikes, filter: true, save: "idle-bikes", sort: { key: "idle_h", descending: true },
      columns: [{ key: "bike_id", label: t("Bike") },
        { key: "station_id", label: t("Station"), value: (row) => (row.station_id ? name(row.station_id) : null), cell: (row) => (row.station_id ? link(row.station_id) : t("free-standing")) },
        { key: "idle_h", label: t("Hours"), kind: "number", digits: 1 }, { key: "since", label: t("Since"), kind: "time" },
        { key: "battery_pct", label: t("Battery, %"), kind: "number" },
        { key: "lat", label: t("Place"), value: (row) => row.lat, cell: (row) => `${row.lat}, ${row.lon}` }],
      fields: (records(idle).length ? idle : free).columns,
    });
    standing.append(el("p", { class: "quiet" }, t("as of {time}", { time: time(bikes[0].seen_at) })));
  }
  standing.append(source(idle, free));
})();
