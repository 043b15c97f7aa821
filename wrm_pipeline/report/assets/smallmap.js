"use strict";
// A map within a page: stations as circles in a drawing without streets, so that nothing is fetched.
const smallMap = (() => {
  const { t, el } = site;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const inside = ({ lat, lon }) => {
    const [south, west, north, east] = WRM.about.area;
    return lat >= south && lat <= north && lon >= west && lon <= east;
  };

  // label: for screen readers. places: with lat and lon, in view at first. On a touch screen one finger scrolls the page.
  const draw = (host, label, places) => {
    const box = el("div", { class: "small-map", role: "application", "aria-label": label });
    host.append(box);
    const map = L.map(box, {
      zoomControl: false, attributionControl: false, zoomSnap: 0.25, minZoom: 9, maxZoom: 17, scrollWheelZoom: false,
      dragging: matchMedia("(pointer: fine)").matches, zoomAnimation: !calm, fadeAnimation: !calm, markerZoomAnimation: !calm });
    L.control.zoom({ position: "topright", zoomInTitle: t("Zoom in"), zoomOutTitle: t("Zoom out") }).addTo(map);
    L.control.scale({ imperial: false, position: "bottomright" }).addTo(map);
    const bounds = L.latLngBounds(places.map(({ lat, lon }) => [lat, lon]));
    const [south, west, north, east] = WRM.about.area;
    map.fitBounds(bounds.isValid() ? bounds : [[south, west], [north, east]], { padding: [14, 14] });
    // Lines below circles.
    const lines = L.svg({ padding: 0.5, pane: "overlayPane" });
    map.createPane("circles").style.zIndex = 430;
    const circles = L.svg({ padding: 0.5, pane: "circles" });
    const scale = () => Math.min(1.6, Math.max(0.5, 0.25 * (map.getZoom() - 9)));
    const marks = new Set();
    map.on("zoomend", () => { for (const mark of marks) mark.setRadius(mark.options.size * scale()); });
    const circle = (lat, lon, size, className, hint) => {
      const mark = L.circleMarker([lat, lon], { renderer: circles, weight: 1, fillOpacity: 0.95, size, radius: size * scale(), className: `station ${className}` });
      mark.bindTooltip(() => el("span", {}, typeof hint === "function" ? hint() : hint), { direction: "top" }).addTo(map);
      marks.add(mark);
      // Only what differs is drawn again.
      mark.show = (newSize, newClass) => {
        if (newSize !== mark.options.size) { mark.options.size = newSize; mark.setRadius(newSize * scale()); }
        if (newClass !== mark.drawn) { mark.getElement().setAttribute("class", `station ${newClass} leaflet-interactive`); mark.drawn = newClass; }
      };
      mark.drawn = className;
      return mark;
    };
    const line = (from, to, weight, className, hint) => {
      const drawn = L.polyline([from, to], { renderer: lines, weight, className, opacity: 0.55 });
      return drawn.bindTooltip(() => el("span", {}, hint), { sticky: true }).addTo(map);
    };
    return { map, circle, line, size: (bikes) => 3.5 + 1.3 * Math.sqrt(Math.max(0, bikes ?? 0)) };
  };
  return Object.assign(draw, { inside, calm });
})();
