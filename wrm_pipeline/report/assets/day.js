"use strict";
// A day: its hours compared with the usual values of that weekday.
(() => {
  const { t, $, records, dayLong, day, dayShort, weekday, hour, notice, source } = site;
  const { hours, rides, days, steps } = WRM.day;
  const hourRows = records(hours), rideRows = records(rides);
  const dates = [...new Set([...hourRows, ...rideRows].map((row) => row.dt))].sort().reverse();

  const part = (selector, dataset, rows, title, series, digits) => {
    const host = $(selector);
    host.replaceChildren();
    if (!rows.length) host.append(notice(dataset));
    else {
      chart(host, {
        title, first: t("Hour"), digits, labels: rows.map((row) => String(row.local_hour)),
        longLabels: rows.map((row) => hour(row.local_hour)),
        series: series.map(({ key, ...rest }) => ({ ...rest, values: rows.map((row) => row[key]) })),
      });
    }
    host.append(source(dataset));
  };
  const peak = (rows, key) => rows.reduce((best, row) => (row[key] > (best?.[key] ?? -1) ? row : best), null);

  const show = (date) => {
    const name = weekday(date);
    const here = hourRows.filter((row) => row.dt === date), rode = rideRows.filter((row) => row.dt === date);
    const usual = { label: t("usual, {weekday}", { weekday: name }), colour: "--quiet", dashed: true };
    window.wrmCharts.length = 0;
    part("#out", hours, here, t("Bikes out by hour"), [
      { key: "bikes_out", label: t("bikes out"), colour: "--c1", bars: true }, { key: "bikes_out_usual", ...usual }], 0);
    part("#rides", rides, rode, t("Departures from stations by hour"), [
      { key: "departures", label: t("departures"), colour: "--c1", bars: true }, { key: "departures_usual", ...usual }], 0);
    part("#empty", hours, here, t("Empty stations"), [
      { key: "empty", label: t("empty"), colour: "--c2" }, { key: "empty_usual", ...usual }], 1);
    part("#full", hours, here, t("Full stations"), [
      { key: "full", label: t("full"), colour: "--c3" }, { key: "full_usual", ...usual }], 1);
    drawDays();
    replay($("#replay"), steps, date);
    const out = peak(here, "bikes_out"), empty = peak(here, "empty");
    $("#day-summary").textContent = !out ? "" : [
      t("{day}: most bikes out in the hour from {hour}, {n}.", { day: dayLong(date), hour: hour(out.local_hour), n: out.bikes_out }),
      out.bikes_out_usual == null ? t("There is no earlier {weekday} in the data to compare with.", { weekday: name })
        : t("Usual for that hour: {n}.", { n: out.bikes_out_usual }),
      t("Most empty stations from {hour}: {n}.", { hour: hour(empty.local_hour), n: empty.empty }),
    ].join(" ");
  };
  const drawDays = () => {
    const host = $("#days");
    host.replaceChildren();
    site.figure(host, days, (rows) => {
      const ordered = rows.toReversed();
      chart(host, {
        title: t("Day by day"), first: t("Day"), labels: ordered.map((row) => dayShort(row.dt)), longLabels: ordered.map((row) => day(row.dt)),
        from0: false, series: [
          { label: t("bikes at stations, mean"), values: ordered.map((row) => row.bikes_mean), colour: "--c1" },
          { label: t("fewest"), values: ordered.map((row) => row.bikes_min), colour: "--c2", dashed: true },
          { label: t("most"), values: ordered.map((row) => row.bikes_max), colour: "--c3", dashed: true }],
      });
    });
  };
  // A complete day says more than one that has just begun.
  const whole = dates.find((date) => new Set(hourRows.filter((row) => row.dt === date).map((row) => row.local_hour)).size >= 23);
  dayPicker(dates, show, whole);
})();
