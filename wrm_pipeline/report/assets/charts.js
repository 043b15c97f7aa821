"use strict";
// Lines and bars with uPlot, with a legend that shows the values and a table of the same data.
const chart = (() => {
  const { t, el, number, onTheme, colour } = site;
  window.wrmCharts = [];

  // series: label, values, colour (a custom property), bars, dashed. labels: one text per position.
  return (host, { title, labels, longLabels = labels, first, series, digits = 0, from0 = true }) => {
    const box = el("div", { class: "chart", role: "img", "aria-label": `${title}. ${t("The same numbers are in the table below.")}` });
    const readings = series.map(() => el("b", {}));
    const at = el("span", { class: "at" });
    const legend = el("ul", { class: "legend", "aria-hidden": "true" }, el("li", {}, at), series.map((one, i) =>
      el("li", {}, el("span", { class: `swatch${one.dashed ? " dashed" : ""}${one.bars ? " bars" : ""}`, "data-colour": one.colour }), `${one.label} `, readings[i])));
    const read = (i) => {
      at.textContent = i == null ? "" : longLabels[i];
      series.forEach((one, k) => { readings[k].textContent = i == null ? "" : number(one.values[i], digits); });
    };
    const table = el("details", { class: "as-table" }, el("summary", {}, t("As a table")),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, el("table", { class: "data" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, first), series.map((one) => el("th", { scope: "col", class: "number" }, one.label)))),
        el("tbody", {}, labels.map((_, i) => el("tr", {}, el("th", { scope: "row" }, longLabels[i]),
          series.map((one) => el("td", { class: "number" }, number(one.values[i], digits)))))))));
    host.append(legend, box, table);

    let plot = null;
    const draw = () => {
      plot?.destroy();
      for (const swatch of legend.querySelectorAll(".swatch")) swatch.style.color = `var(${swatch.dataset.colour})`;
      const quiet = colour("--quiet"), lines = { stroke: colour("--grid"), width: 1 };
      const font = `12px ${getComputedStyle(document.body).fontFamily}`;
      const last = labels.length - 1;
      plot = new uPlot({
        width: Math.max(240, box.clientWidth), height: 230, legend: { show: false }, padding: [10, 12, 0, 0],
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: { x: { time: false, range: () => [-0.5, last + 0.5] }, y: { range: (_, low, high) =>
          (low == null ? [0, 1] : [from0 ? 0 : low - (high - low) * 0.1, Math.max(high + (high - (from0 ? 0 : low)) * 0.08, from0 ? 1 : low + 1)]) } },
        axes: [
          { stroke: quiet, font, grid: { show: false }, ticks: { ...lines, size: 4 }, size: 28, space: 44,
            incrs: [1, 2, 3, 4, 6, 7, 14, 28], values: (_, ticks) => ticks.map((i) => labels[i] ?? "") },
          { stroke: quiet, font, grid: lines, ticks: { show: false }, size: 56, values: (_, ticks) => ticks.map((value) => number(value, digits)) },
        ],
        series: [{}, ...series.map((one) => ({
          stroke: colour(one.colour), width: one.bars ? 0 : 2, points: { show: labels.length < 3, size: 6 }, dash: one.dashed ? [6, 5] : undefined,
          ...(one.bars ? { fill: colour(one.colour), paths: uPlot.paths.bars({ size: [0.72, 48] }), points: { show: false } } : {}),
        }))],
        hooks: { setCursor: [(self) => read(self.cursor.idx ?? last)] },
      }, [labels.map((_, i) => i), ...series.map((one) => one.values.map((value) => value ?? null))], box);
      box.querySelector("canvas").dataset.colours = series.map((one) => colour(one.colour)).join(";");
    };
    draw();
    read(labels.length - 1);
    onTheme(draw);
    new ResizeObserver(() => { if (plot && Math.abs(plot.width - box.clientWidth) > 1 && box.clientWidth >= 240) plot.setSize({ width: box.clientWidth, height: 230 }); }).observe(box);
    window.wrmCharts.push({ title, points: series.map((one) => one.values.filter((value) => value != null).length) });
  };
})();
