"use strict";
// Draws bikes on a map: on a page with its data in #data, and on the report's page, which calls drawBikeMap. Names come
// from outside: they reach the DOM through textContent only.
const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const drawBikeMap = (data, {
  t = (text, values = {}) => text.split("|").at(values.n === 1 ? 0 : -1).replace(/{(\w+)}/g, (_, name) => values[name]),
  locale = "en", isDark = () => darkScheme.matches, stationLink = null,
  onTheme = (listener) => darkScheme.addEventListener("change", listener),
} = {}) => {
  const $ = (selector) => document.querySelector(selector);
  const element = (tag, text = "", className = "") => {
    const node = document.createElement(tag);
    node.textContent = text;
    node.className = className;
    return node;
  };
  const number = (value, digits = 0) => value.toLocaleString(locale, { maximumFractionDigits: digits });
  const [south, west, north, east] = data.area;
  const [stepLat, stepLon] = data.cellDegrees;
  const area = L.latLngBounds([south, west], [north, east]);

  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const map = L.map("map", {
    zoomControl: false, minZoom: 9, maxZoom: 19, zoomSnap: 0.25, maxBounds: area.pad(0.5),
    zoomAnimation: !calm, fadeAnimation: !calm, markerZoomAnimation: !calm,
  });
  map.attributionControl.setPrefix(false);
  L.control.zoom({ position: "topright" }).addTo(map);
  L.control.scale({ imperial: false, position: "bottomright" }).addTo(map);

  const pane = (name, zIndex, renderer) => {
    map.createPane(name).style.zIndex = zIndex;
    return renderer({ pane: name, padding: 0.5 });
  };
  const renderers = {
    grid: pane("grid", 300, L.svg), density: pane("density", 350, L.canvas),
    bikes: pane("bikes", 420, L.svg), stations: pane("stations", 430, L.svg),
  };
  map.createPane("names").style.zIndex = 440;
  map.getPane("grid").setAttribute("aria-hidden", "true");
  const layers = Object.fromEntries(
    ["density", "stations", "bikes", "labels", "grid"].map((name) => [name, L.layerGroup()]));

  const card = (title, rows, href) => {
    const box = element("div");
    box.append(element("h3", title));
    const list = element("dl");
    for (const [term, value] of rows) list.append(element("dt", term), element("dd", value));
    box.append(list);
    if (href) {
      const link = element("a", t("The week of this station"));
      link.href = href;
      box.append(link);
    }
    return box;
  };

  // Density: the embedded squares, joined further so that one is at least 14 pixels wide.
  const metresPerPixel = (zoom) =>
    (40075016.686 * Math.cos(((south + north) / 2) * Math.PI / 180)) / (256 * 2 ** zoom);
  const sizes = [1, 2, 4, 8, 16, 32, 64].map((n) => n * data.factor);
  for (const size of sizes) {
    const option = element("option", `${number(size * data.cellSide)} m`);
    option.value = size;
    $("#square").append(option);
  }
  const squareSize = () => Number($("#square").value)
    || sizes.find((size) => size * data.cellSide >= 14 * metresPerPixel(map.getZoom())) || sizes.at(-1);

  const join = (size) => {
    const ratio = size / data.factor;
    const joined = new Map();
    for (const [x, y, mean, max, stations, cells] of data.squares) {
      const column = Math.floor(x / ratio), row = Math.floor(y / ratio), key = `${column},${row}`;
      const square = joined.get(key) ?? { column, row, mean: 0, stations: 0, cells: 0 };
      square.mean += mean;
      square.stations += stations;
      square.cells += cells;
      square.max = size === 1 ? max : null;
      joined.set(key, square);
    }
    return [...joined.values()];
  };

  const classBreaks = (highest, classes) => {
    const ladder = [];
    for (let exponent = -6; exponent < 9; exponent += 1)
      for (const mantissa of [1, 2, 5]) ladder.push(Number(`${mantissa}e${exponent}`));
    const top = Math.max(0, ladder.findLastIndex((step) => step <= highest));
    const first = Math.max(0, top - classes + 2);
    return ladder.slice(first, first + classes - 1);
  };

  const drawDensity = () => {
    const size = squareSize(), side = size * data.cellSide, km2 = (side / 1000) ** 2;
    const squares = join(size);
    const ramp = isDark() ? data.ramps.dark : data.ramps.light;
    const breaks = classBreaks(squares.reduce((most, square) => Math.max(most, square.mean / km2), 0), ramp.length);
    layers.density.clearLayers();
    for (const square of squares) {
      const density = square.mean / km2;
      const latitude = south + square.row * size * stepLat, longitude = west + square.column * size * stepLon;
      const rectangle = L.rectangle(
        [[latitude, longitude], [latitude + size * stepLat, longitude + size * stepLon]],
        { renderer: renderers.density, stroke: false, fillOpacity: 0.82, cells: square.cells,
          fillColor: ramp[breaks.filter((limit) => limit <= density).length] });
      rectangle.bindPopup(() => card(`${number(side)} m × ${number(side)} m`, [
        [t("Bikes per km²"), number(density, density < 10 ? 1 : 0)],
        [t("Bikes, mean"), number(square.mean, 1)],
        ...(square.max === null ? [] : [[t("Bikes, most at once"), number(square.max)]]),
        [t("Stations"), number(square.stations)],
      ]));
      layers.density.addLayer(rectangle);
    }
    $("#classes").replaceChildren(...ramp.map((colour, index) => {
      const item = element("li"), swatch = element("span");
      swatch.style.background = colour;
      item.append(swatch, index ? number(breaks[index - 1], 6) : "0");
      return item;
    }));
    $("#square-size").textContent = `${number(side)} m`;
  };

  // Stations and free-standing bikes: the newest snapshot.
  const fillClass = (bikes, docks) => {
    if (bikes === 0) return "fill-0";
    if (!docks) return "fill-none";
    const share = bikes / docks;
    return share > 1 ? "fill-4" : share >= 2 / 3 ? "fill-3" : share >= 1 / 3 ? "fill-2" : "fill-1";
  };
  const hint = (name) => () => element("span", name);
  // The fullest first: a small circle is never hidden under a large one, and names go to the fullest.
  data.stations.sort((one, other) => other[4] - one[4]);
  const stations = data.stations.map(([id, name, lat, lon, bikes, pedelecs, spaces, docks, kind]) => {
    const mark = L.circleMarker([lat, lon], {
      renderer: renderers.stations, weight: 1.2, fillOpacity: 0.95, bikes,
      className: `station ${fillClass(bikes, docks)}`,
    });
    mark.bindPopup(() => card(name, [
      [t("Bikes"), number(bikes)],
      ...(pedelecs === null ? [] : [[t("of them e-bikes"), number(pedelecs)]]),
      [t("Free docks"), spaces === null ? t("unknown") : number(spaces)],
      [t("Docks"), docks ? number(docks) : t("unknown")],
      [kind === "station" ? t("Station") : t("Unclassified record"), id],
    ], stationLink?.(id))).bindTooltip(hint(name), { direction: "top", pane: "popupPane" });
    layers.stations.addLayer(mark);
    return { id, name, bikes, mark, position: L.latLng(lat, lon) };
  });
  const dots = data.bikes.map(([id, name, lat, lon, bikes, pedelecs, battery, idleHours]) => {
    const mark = L.circleMarker([lat, lon], {
      renderer: renderers.bikes, weight: 1, fillOpacity: 1, className: "bike" });
    mark.bindPopup(() => card(name, [
      [t("Bikes"), number(bikes)],
      ...(pedelecs === null ? [] : [[t("of them e-bikes"), number(pedelecs)]]),
      ...(battery == null ? [] : [[t("Battery"), `${number(battery)} %`]]),
      ...(idleHours == null ? [] : [[t("Standing here, hours"), number(idleHours, 1)]]),
      [t("Free-standing"), id],
    ])).bindTooltip(hint(name), { direction: "top", pane: "popupPane" });
    layers.bikes.addLayer(mark);
    return mark;
  });

  const resizeMarks = () => {
    const scale = Math.min(1.8, Math.max(0.55, 0.25 * (map.getZoom() - 9)));
    for (const { mark, bikes } of stations) mark.setRadius((3.5 + 1.3 * Math.sqrt(bikes)) * scale);
    for (const mark of dots) mark.setRadius(Math.max(2.6, 3.2 * scale));
  };

  // Names of the fullest stations that fit without touching each other.
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `500 12px ${getComputedStyle(document.body).fontFamily}`;
  const drawNames = () => {
    layers.labels.clearLayers();
    if (!map.hasLayer(layers.stations)) return;
    const view = map.getBounds(), taken = [], most = 9 * (map.getZoom() - 9);
    for (const { name, mark, position } of stations) {
      if (taken.length >= most) break;
      if (!view.contains(position)) continue;
      const point = map.latLngToContainerPoint(position), width = Math.min(180, Math.ceil(pen.measureText(name).width) + 4);
      const left = point.x + mark.getRadius() + 3, top = point.y - 7;
      if (left + width > map.getSize().x || taken.some((box) => left < box[0] + box[2] + 10 && box[0] < left + width + 10
        && Math.abs(top - box[1]) < 34)) continue;
      taken.push([left, top, width]);
      layers.labels.addLayer(L.marker(position, {
        pane: "names", interactive: false, keyboard: false,
        icon: L.divIcon({ className: "name", html: element("span", name), iconSize: [width, 14],
          iconAnchor: [-mark.getRadius() - 3, 7] }),
      }));
    }
  };

  const degrees = (value, digits, [plus, minus]) => `${Math.abs(value).toFixed(digits)}° ${value < 0 ? minus : plus}`;

  // Lines of latitude and longitude, for orientation without a street map.
  const drawGrid = () => {
    layers.grid.clearLayers();
    const view = map.getBounds();
    const step = [0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001].find((size) => size < (view.getEast() - view.getWest()) / 3)
      ?? 0.001;
    const line = (points, text, at) => {
      layers.grid.addLayer(L.polyline(points, {
        renderer: renderers.grid, interactive: false, weight: 1, className: "graticule" }));
      layers.grid.addLayer(L.marker(at, { pane: "grid", interactive: false, keyboard: false,
        icon: L.divIcon({ className: "degrees", html: element("span", text), iconSize: null, iconAnchor: [-4, 15] }) }));
    };
    const digits = step >= 0.01 ? 2 : 3;
    const corner = map.containerPointToLatLng([0, map.getSize().y]);
    for (let i = Math.ceil(view.getSouth() / step); i * step <= view.getNorth(); i += 1)
      line([[i * step, view.getWest() - 1], [i * step, view.getEast() + 1]], degrees(i * step, digits, "NS"),
        [i * step, corner.lng]);
    const beforeScaleBar = map.containerPointToLatLng([map.getSize().x - 130, 0]).lng;
    for (let i = Math.ceil(view.getWest() / step); i * step <= view.getEast(); i += 1)
      line([[view.getSouth() - 1, i * step], [view.getNorth() + 1, i * step]], i * step < beforeScaleBar ? degrees(i * step, digits, "EW") : "",
        [corner.lat, i * step]);
    layers.grid.addLayer(L.rectangle(area, {
      renderer: renderers.grid, interactive: false, fill: false, weight: 1.5, dashArray: "6 5", className: "area" }));
  };

  // Street map: loaded only when the reader ticks it.
  const tiles = L.tileLayer(data.tiles, {
    maxZoom: 19, referrerPolicy: "strict-origin-when-cross-origin",
    attribution: '© <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a> contributors',
  });
  const tilesBox = $("[data-layer=tiles]");
  const tilesSay = (text) => { $("#tiles-status").textContent = text; };
  tiles.on("tileerror", () => {
    tiles.remove();
    tilesBox.checked = false;
    tilesSay(t("The street map cannot be reached."));
  });
  const followConnection = () => {
    tilesBox.disabled = !navigator.onLine;
    if (!navigator.onLine) { tiles.remove(); tilesBox.checked = false; }
    tilesSay(navigator.onLine ? "" : t("No connection, so no street map."));
  };
  addEventListener("online", followConnection);
  addEventListener("offline", followConnection);

  // Search, ignoring case and accents: "glowny" finds "Główny".
  const plain = (text) => text.toLowerCase().replaceAll("ł", "l").normalize("NFD").replace(/\p{M}/gu, "");
  const index = stations.map((station) => ({ ...station, key: `${plain(station.name)} ${plain(station.id)}` }));
  let found = null;
  const open = (station) => {
    found?.getElement()?.classList.remove("found");
    found = station.mark;
    const box = $("[data-layer=stations]");
    if (!box.checked) box.click();
    map.setView(station.position, Math.max(map.getZoom(), 16), { animate: false });
    found.openPopup();
    found.getElement()?.classList.add("found");
    $("#results").replaceChildren();
    $("#search-status").textContent = t("Shown: {name}", { name: station.name });
    publish();
  };
  const matches = () => {
    const words = plain($("#search").value).split(/\s+/).filter(Boolean);
    return words.length ? index.filter(({ key }) => words.every((word) => key.includes(word))) : [];
  };
  $("#search").addEventListener("input", () => {
    const hits = matches();
    $("#results").replaceChildren(...hits.slice(0, 8).map((station) => {
      const item = element("li"), button = element("button");
      button.type = "button";
      button.append(element("span", station.name), element("span", `${station.bikes}`, "quiet"));
      button.addEventListener("click", () => open(station));
      item.append(button);
      return item;
    }));
    $("#search-status").textContent = !$("#search").value.trim() ? ""
      : hits.length > 8 ? t("{n} stations, the first 8:", { n: hits.length })
        : t("{n} station|{n} stations", { n: hits.length });
  });
  $("#search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches().length) open(matches()[0]);
  });

  // The current content of the map, for tests and debugging.
  const publish = () => {
    const shown = (name, selector) => (map.hasLayer(layers[name]) ? document.querySelectorAll(selector).length : 0);
    const squares = map.hasLayer(layers.density) ? layers.density.getLayers() : [];
    const { lat, lng } = map.getCenter();
    window.wrmMap = {
      cells: squares.reduce((sum, square) => sum + square.options.cells, 0), squares: squares.length,
      stations: shown("stations", "path.station"), bikes: shown("bikes", "path.bike"),
      names: layers.labels.getLayers().length, found: found ? stations.find(({ mark }) => mark === found).name : null,
      center: { lat, lng }, zoom: map.getZoom(),
    };
  };

  const home = () => {
    const bounds = L.latLngBounds(data.squares.flatMap(([x, y]) => [
      [south + y * data.factor * stepLat, west + x * data.factor * stepLon],
      [south + (y + 1) * data.factor * stepLat, west + (x + 1) * data.factor * stepLon]]));
    map.fitBounds(bounds.isValid() ? bounds : area, { padding: [12, 12] });
  };
  home();
  for (const layer of Object.values(layers)) layer.addTo(map);
  const redraw = () => { resizeMarks(); drawDensity(); };
  const moved = () => { drawGrid(); if (map.hasLayer(layers.labels)) drawNames(); publish(); };
  map.on("zoomend", redraw);
  map.on("moveend", moved);
  onTheme(drawDensity);
  $("#square").addEventListener("change", () => { drawDensity(); publish(); });
  $("#home").addEventListener("click", () => { map.closePopup(); home(); });
  $("#layers").addEventListener("change", ({ target }) => {
    const layer = target.dataset.layer === "tiles" ? tiles : layers[target.dataset.layer];
    if (target.checked) layer.addTo(map); else layer.remove();
    moved();
  });
  followConnection();
  redraw();
  moved();
  return { open: (id) => { const station = stations.find((one) => one.id === id); if (station) open(station); } };
};
const embeddedData = document.getElementById("data");
if (embeddedData) drawBikeMap(JSON.parse(embeddedData.textContent));
