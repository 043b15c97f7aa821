"use strict";
// City now: the map of bike density, fed from the tables of the newest snapshot.
(() => {
  const { t, $, el, records, number, time, source, notice, href, hash, isDark, onTheme, locale } = site;
  const { stations, bikes, cells, snapshots, density } = WRM.city;
  const all = { stations: records(stations), bikes: records(bikes) };
  const inside = (rows) => rows.filter((row) => !row.outside_service_area);
  const outside = (rows) => rows.length - inside(rows).length;
  const sum = (rows) => rows.reduce((total, row) => total + row.bikes, 0);
  const map = drawBikeMap({
    ...density,
    stations: inside(all.stations).map((row) =>
      [row.station_id, row.name, row.lat, row.lon, row.bikes, row.pedelecs, row.spaces, row.total_docks, "station"]),
    bikes: inside(all.bikes).map((row) =>
      [row.station_id, row.name, row.lat, row.lon, 1, null, row.battery_pct, row.idle_h]),
  }, { t, locale, isDark, onTheme, stationLink: (id) => href("stations.html", id) });

  const asOf = [...all.stations, ...all.bikes].map((row) => row.file_timestamp).sort().at(-1);
  const counts = document.querySelectorAll("#counts dd");
  [sum(inside(all.stations)), inside(all.bikes).length, inside(all.stations).length,
    sum(all.stations.filter((row) => row.outside_service_area)) + outside(all.bikes)]
    .forEach((value, i) => { counts[i].textContent = number(value); });
  $(".bike-map header time").textContent = time(asOf);
  if (asOf) $(".bike-map header time").dateTime = asOf;
  $("#snapshot-count").textContent = snapshots.rows.length
    ? t("mean of {n} snapshot|mean of {n} snapshots", { n: records(snapshots)[0].snapshots }) : t("mean of the day");
  if (outside(all.stations)) {
    $("#counts").after(el("p", { class: "quiet" }, t("{n} more station lies outside the service area; Stations lists it, too.|{n} more stations lie outside the service area; Stations lists them, too.", { n: outside(all.stations) })));
  }
  $(".bike-map footer").prepend(t("{n} square of the newest day held a bike.|{n} squares of the newest day held a bike.", { n: density.squares.length }), " ");
  $(".bike-map footer").append(source(stations, bikes, cells));
  for (const dataset of [stations, bikes].filter(({ rows }) => !rows.length)) $("#counts").before(notice(dataset));
  if (cells.missing.length) $("#counts").before(notice(cells));

  const follow = () => map.open(hash());
  addEventListener("hashchange", follow);
  follow();
})();
