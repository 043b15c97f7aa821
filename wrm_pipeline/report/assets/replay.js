"use strict";
// The replay of a day: a slider over its steps of five minutes. Each day's counts are a script of their own, loaded when
// the day is chosen, one character per count (see report/replay.py).
const replay = (() => {
  const { t, el, number, clock, dayLong, notice, source, fillClass, fillLegend } = site;
  const FIRST = 93, UNKNOWN = " ", STEP_MS = 300_000;
  const FRAME_MS = smallMap.calm ? 1000 : 80, STRIDE = smallMap.calm ? 12 : 1;
  const loading = new Map();
  const load = (date) => {
    if (!loading.has(date)) {
      loading.set(date, new Promise((resolve, reject) => {
        const script = el("script", { src: `data/replay-${date}.js`, onload: () => resolve(WRM.replays[date]), onerror: reject });
        document.head.append(script);
      }));
    }
    return loading.get(date);
  };

  const player = (host, { begin, stations }) => {
    const counts = stations.map(({ bikes }) => [...bikes].map((character) => (character === UNKNOWN ? null : character.codePointAt(0) - FIRST)));
    const steps = Math.max(...counts.map(({ length }) => length)), start = Date.parse(begin);
    const at = (step) => clock(new Date(start + step * STEP_MS).toISOString());
    const terms = [t("Bikes at stations"), t("Empty stations"), t("A bike in every dock")], tiles = terms.map(() => el("dd"));
    const time = el("output", { class: "replay-time", for: "replay-step" });
    const slider = el("input", { type: "range", id: "replay-step", min: 0, max: steps - 1, step: 1, value: 0, "aria-label": t("Time of the day") });
    const play = el("button", { type: "button", id: "replay-play" });
    host.append(
      el("div", { class: "replay-bar" }, play, slider, time),
      el("dl", { class: "tiles replay-counts" }, terms.map((term, i) => el("div", {}, el("dt", {}, term), tiles[i]))),
      fillLegend());
    const map = smallMap(host, t("Map of the stations at the chosen time; arrow keys move it, plus and minus zoom"), stations.filter(smallMap.inside));
    let step = 0;
    const marks = stations.map((station, i) => (!smallMap.inside(station) ? null : map.circle(station.lat, station.lon, 3.5, "fill-none", () =>
      `${station.name}: ${counts[i][step] == null ? t("no data") : t("{n} bike|{n} bikes", { n: counts[i][step] })}`)));
    const show = (wanted) => {
      step = Math.min(steps - 1, Math.max(0, wanted));
      let bikes = 0, empty = 0, full = 0;
      stations.forEach(({ docks }, i) => {
        const count = counts[i][step] ?? null;
        if (count != null) { bikes += count; empty += docks > 0 && count === 0; full += docks > 0 && count >= docks; }
        marks[i]?.show(map.size(count), fillClass(count, docks));
      });
      slider.value = step;
      slider.setAttribute("aria-valuetext", at(step));
      time.textContent = at(step);
      [bikes, empty, full].forEach((value, i) => { tiles[i].textContent = number(value); });
    };
    let playing = false, last = 0;
    const label = () => { play.textContent = playing ? t("❚❚ Pause") : t("▶ Play"); };
    const tick = (now) => {
      if (!playing || !host.isConnected) return;
      if (now - last >= FRAME_MS) {
        last = now;
        if (step >= steps - 1) { pause(); return; }
        show(step + STRIDE);
      }
      requestAnimationFrame(tick);
    };
    const pause = () => { playing = false; label(); };
    play.addEventListener("click", () => {
      if (playing) { pause(); return; }
      playing = true;
      label();
      if (step >= steps - 1) show(0);
      requestAnimationFrame(tick);
    });
    slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
    // The space bar plays and pauses from the slider, too; arrow keys, page up and down, home and end are the browser's.
    slider.addEventListener("keydown", (event) => { if (event.key === " ") { event.preventDefault(); play.click(); } });
    label();
    // Eight in the morning says more than midnight.
    show(Math.min(steps - 1, 96));
    return { pause, drawn: () => ({ step, steps, stations: marks.filter(Boolean).length }) };
  };

  let current = null;
  // Shows a day in `host`; `dataset` says which days there are.
  return async (host, dataset, date) => {
    current?.pause();
    current = null;
    const box = el("div");
    host.replaceChildren(box, source(dataset));
    const days = dataset.rows.map(([dt]) => dt);
    if (!days.includes(date)) {
      box.append(dataset.rows.length ? el("p", { class: "quiet" }, t("There is no replay of {day}: the newest days have one, from {first} to {last}.", {
        day: dayLong(date), first: dayLong(days.at(-1)), last: dayLong(days[0]) })) : notice(dataset));
      return;
    }
    try {
      const day = await load(date);
      if (!box.isConnected) return;
      const rows = day.rows.map(([id, name, lat, lon, docks, bikes]) => ({ id, name, lat, lon, docks, bikes }));
      current = player(box, { begin: day.begin, stations: rows });
      window.wrmReplay = current.drawn;
    } catch {
      box.append(el("p", { class: "notice" }, t("The file of this day cannot be loaded: data/{file}.", { file: `replay-${date}.js` })));
    }
  };
})();
