"use strict";
// Lineage: assets in rows by their distance from the raw data, with a table of the same data.
(() => {
  const { t, $, el, records, time, href, hash, notice, source, breakable, prose } = site;
  const { assets } = WRM.lineage;
  const rows = records(assets).map((row) => ({ ...row, from: row.sources ? row.sources.split(", ") : [], tables: row.tables ?? [] }));
  const known = new Map(rows.map((row) => [row.name, row]));
  for (const row of rows) row.from = row.from.filter((name) => known.has(name));
  const feeds = (row) => rows.filter((other) => other.from.includes(row.name)).map(({ name }) => name);
  const depths = new Map();
  const depth = (row) => {
    if (!depths.has(row.name)) {
      depths.set(row.name, 0); // a cycle would end here
      depths.set(row.name, Math.max(-1, ...row.from.map((name) => depth(known.get(name)))) + 1);
    }
    return depths.get(row.name);
  };
  rows.forEach(depth);

  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  // Rows of assets. An arrow that passes a row has a narrow lane in it, to avoid the assets there.
  const WIDTH = 212, HEIGHT = 56, GAP = 20, DOWN = 100, LANE = 10;
  const levels = [], spots = new Map(), routes = [];
  const put = (key, y, from) => {
    const spot = { key, y, from, width: known.has(key) ? WIDTH : LANE };
    (levels[y] ??= []).push(spot);
    spots.set(key, spot);
    return spot;
  };
  for (const row of rows) put(row.name, depths.get(row.name), []);
  for (const row of rows) {
    for (const name of row.from) {
      const route = [spots.get(name)];
      for (let y = depths.get(name) + 1; y < depths.get(row.name); y += 1) {
        // One lane per row serves all arrows of the same source.
        const key = `${name} ${y}`;
        route.push(spots.get(key) ?? put(key, y, [route.at(-1).key]));
      }
      spots.get(row.name).from.push(route.at(-1).key);
      routes.push({ from: name, to: row.name, route: [...route, spots.get(row.name)] });
    }
  }
  const arrange = (level) => {
    const middle = (spot) => (spot.from.length ? spot.from.reduce((sum, key) => sum + spots.get(key).x, 0) / spot.from.length : 0);
    level.sort((one, other) => middle(one) - middle(other) || one.key.localeCompare(other.key));
    let x = -(level.reduce((sum, spot) => sum + spot.width, 0) + GAP * (level.length - 1)) / 2;
    for (const spot of level) { spot.x = x + spot.width / 2; x += spot.width + GAP; }
  };
  levels.forEach(arrange);
  const left = Math.min(0, ...[...spots.values()].map((spot) => spot.x - spot.width / 2)) - 12;
  const graphWidth = 12 + Math.max(0, ...[...spots.values()].map((spot) => spot.x + spot.width / 2)) - left;
  const places = new Map(rows.map((row) => {
    const { x, y } = spots.get(row.name);
    return [row.name, { x: x - WIDTH / 2 - left, y: 10 + y * DOWN }];
  }));
  // Two lines at most, cut at an underscore.
  const lines = (name) => {
    if (name.length <= 26) return [name];
    const cuts = [...name.matchAll(/_/g)].map((match) => match.index + 1).filter((i) => i <= 26);
    const cut = cuts.at(-1) ?? 26;
    return [name.slice(0, cut), name.slice(cut)];
  };

  const drawGraph = () => {
    const width = graphWidth, height = (levels.length - 1) * DOWN + HEIGHT + 24;
    const arrow = svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
      svg("path", { d: "M0 0 8 4 0 8z" }));
    const edges = routes.map(({ from, to, route }) => {
      let path = "";
      route.forEach((spot, i) => {
        const x = spot.x - left, top = 10 + spot.y * DOWN, next = route[i + 1];
        if (!i) path += `M${x} ${top + HEIGHT}`;
        else if (next) path += `V${top + HEIGHT}`;
        if (next) {
          const y1 = top + HEIGHT, y2 = 10 + next.y * DOWN - (i + 2 === route.length ? 1 : 0), half = (y1 + y2) / 2;
          path += `C${x} ${half} ${next.x - left} ${half} ${next.x - left} ${y2}`;
        }
      });
      return svg("path", { class: "edge", d: path, "marker-end": "url(#arrow)", "data-from": from, "data-to": to });
    });
    const nodes = [...rows].sort((one, other) => depths.get(one.name) - depths.get(other.name) || places.get(one.name).x - places.get(other.name).x).map((row) => {
      const { x, y } = places.get(row.name), text = lines(row.name);
      const link = svg("a", { href: `#${encodeURIComponent(row.name)}`, class: "node", "data-layer": row.layer, "data-name": row.name,
        "aria-label": `${row.name}, ${t(row.layer)}` },
      svg("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 7 }), svg("rect", { class: "band", x, y: y + 8, width: 5, height: HEIGHT - 16, rx: 2 }),
      ...text.map((part, i) => { const label = svg("text", { x: x + 14, y: y + (text.length > 1 ? 18 : 24) + 15 * i }); label.textContent = part; return label; }));
      const layer = svg("text", { class: "layer", x: x + 14, y: y + (text.length > 1 ? 49 : 43) });
      layer.textContent = t(row.layer);
      link.append(layer);
      return link;
    });
    return el("div", { class: "scroll graph", tabindex: 0, role: "region", "aria-label": t("Graph of the assets; the table below says the same") },
      svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, svg("defs", {}, arrow), ...edges, ...nodes));
  };
  const links = (names) => (names.length ? names.flatMap((name, i) => [i ? ", " : "", el("a", { href: `#${encodeURIComponent(name)}` }, breakable(name))]) : ["–"]);
  const follow = () => {
    const row = known.get(hash());
    for (const node of document.querySelectorAll(".node")) {
      node.classList.toggle("chosen", node.dataset.name === row?.name);
      if (node.dataset.name === row?.name) node.setAttribute("aria-current", "true"); else node.removeAttribute("aria-current");
    }
    for (const edge of document.querySelectorAll(".edge")) edge.classList.toggle("chosen", Boolean(row) && [edge.dataset.from, edge.dataset.to].includes(row.name));
    $("#chosen").replaceChildren(...(row ? [el("h2", {}, row.name), el("p", { lang: "en" }, prose(row.description)), el("dl", { class: "facts" },
      el("div", {}, el("dt", {}, t("Layer")), el("dd", {}, t(row.layer))),
      el("div", {}, el("dt", {}, t("Made from")), el("dd", {}, links(row.from))), el("div", {}, el("dt", {}, t("Feeds into")), el("dd", {}, links(feeds(row)))),
      el("div", {}, el("dt", {}, t("Tables and views")), el("dd", {}, row.tables.length ? breakable(row.tables.join(", ")) : ["–"])),
      el("div", {}, el("dt", {}, t("Refreshed")), el("dd", {}, time(row.refreshed_at)))),
    el("p", {}, el("a", { href: href("catalog.html", `asset-${row.name}`) }, t("In the catalog")))] : []));
  };
  if (!rows.length) $("#graph").append(notice(assets));
  else {
    $("#graph").append(drawGraph());
    // If the graph is wider than the page, it is scrolled to the chosen asset, else to the raw data.
    const { x } = places.get(known.has(hash()) ? hash() : levels[0][0].key), frame = $(".graph");
    frame.scrollLeft = x + (WIDTH - frame.clientWidth) / 2;
    dataTable($("#list"), {
      label: t("Lineage"), rows: rows.map((row) => ({ ...row, depth: depths.get(row.name), fromText: row.from.join(", "), feedsText: feeds(row).join(", "), tablesText: row.tables.join(", ") })),
      sort: { key: "depth", descending: false },
      columns: [{ key: "name", label: t("Asset"), cell: (row) => el("a", { href: `#${encodeURIComponent(row.name)}` }, breakable(row.name)) },
        { key: "layer", label: t("Layer"), value: (row) => t(row.layer) }, { key: "depth", label: t("Steps from the raw data"), kind: "number" },
        { key: "fromText", label: t("Made from") }, { key: "feedsText", label: t("Feeds into") }, { key: "tablesText", label: t("Tables and views") }],
    });
  }
  $("#list").append(source(assets));
  addEventListener("hashchange", follow);
  follow();
})();
