"use strict";
// Shared by all pages: language, numbers and dates, colours, and the line with the source of a figure. The data are in
// window.WRM, from the files of data/. They are shown as text, never as markup.
const site = (() => {
  const remembered = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* the address carries it */ } };

  // Language: from the address, else the last choice, else the browser's.
  const asked = new URLSearchParams(location.search).get("lang");
  const known = (value) => (["en", "pl"].includes(value) ? value : null);
  const language = known(asked) ?? known(remembered("wrm-language")) ?? (navigator.language.startsWith("pl") ? "pl" : "en");
  const locale = language === "pl" ? "pl-PL" : "en-GB";
  const untranslated = new Set();
  window.wrmUntranslated = untranslated;
  const pluralForm = new Intl.PluralRules(language);
  const pluralForms = language === "pl" ? ["one", "few", "many"] : ["one", "other"];
  // Translates an English text into the page's language; "{n} bike|{n} bikes" chooses its form by n.
  const t = (text, values = {}) => {
    let found = text;
    if (language === "pl") {
      found = Object.hasOwn(words, text) ? words[text] : text;
      if (found === text && !Object.hasOwn(words, text) && /\p{L}{2}/u.test(text)) untranslated.add(text);
    }
    if (found.includes("|")) {
      const forms = found.split("|"), form = pluralForms.indexOf(pluralForm.select(values.n));
      found = forms[form] ?? forms.at(-1);
    }
    return found.replace(/{(\w+)}/g, (_, name) => (typeof values[name] === "number" ? number(values[name]) : values[name]));
  };

  const number = (value, digits = 0) => (value == null ? "–" : value.toLocaleString(locale, { maximumFractionDigits: digits }));
  const percent = (share, digits = 0) => (share == null ? "–"
    : share.toLocaleString(locale, { style: "percent", maximumFractionDigits: digits }));
  const dateFormat = (options) => {
    const format = new Intl.DateTimeFormat(locale, options);
    return (text) => (!text ? "–" : format.format(new Date(text)));
  };
  const zone = { timeZone: WRM.about.zone };
  const day = dateFormat({ timeZone: "UTC", weekday: "short", day: "numeric", month: "short", year: "numeric" });
  const dayLong = dateFormat({ timeZone: "UTC", weekday: "long", day: "numeric", month: "long", year: "numeric" });
  const dayShort = dateFormat({ timeZone: "UTC", day: "numeric", month: "numeric" });
  const weekday = dateFormat({ timeZone: "UTC", weekday: "long" });
  const weekdayShort = dateFormat({ timeZone: "UTC", weekday: "short", day: "numeric", month: "numeric" });
  const time = dateFormat({ ...zone, day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
  const clock = dateFormat({ ...zone, hour: "2-digit", minute: "2-digit" });
  const hour = (local) => `${String(local).padStart(2, "0")}:00`;
  // Ignores case and accents: "glowny" finds "Główny".
  const plain = (text) => String(text ?? "").toLowerCase().replaceAll("ł", "l").normalize("NFD").replace(/\p{M}/gu, "");

  // An element with attributes and children; text becomes a text node.
  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children.flat(Infinity).filter((child) => child != null));
    return node;
  };
  const $ = (selector) => document.querySelector(selector);
  // Links keep the language in the address: some browsers store nothing for a page on disk.
  const href = (page, hash = "") => `${page}${known(asked) ? `?lang=${language}` : ""}${hash && `#${encodeURIComponent(hash)}`}`;
  const hash = () => { try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; } };

  // The static texts of the page, before any data is inserted.
  const translatePage = () => {
    document.documentElement.lang = language;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const text = node.data.trim().replace(/\s+/g, " ");
      if (text && !node.parentElement.closest("[translate=no], script, noscript")) node.data = node.data.replace(node.data.trim(), () => t(text));
    }
    for (const name of ["placeholder", "aria-label"])
      for (const node of document.querySelectorAll(`[${name}]`)) node.setAttribute(name, t(node.getAttribute(name)));
    document.title = `${t(document.title.split(" · ")[0])} · ${t("{city} bikes", WRM.about)}`;
    for (const link of document.querySelectorAll("nav a")) link.href = href(link.getAttribute("href"));
    for (const node of document.querySelectorAll(".only-pl")) node.hidden = language !== "pl";
  };

  // Colours: the system's, or the reader's choice.
  const darkScheme = matchMedia("(prefers-color-scheme: dark)"), themeListeners = [];
  let theme = remembered("wrm-theme") ?? "";
  const isDark = () => (theme ? theme === "dark" : darkScheme.matches);
  const onTheme = (listener) => themeListeners.push(listener);
  const applyTheme = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    for (const listener of themeListeners) listener();
  };
  const colour = (name) => {
    const probe = el("span", { hidden: true });
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  // A long name may break after an underscore or slash, and after a dot within it.
  const breakable = (text) => String(text).split(/(?<=\s)/).flatMap((word) => (word.length < 25 ? [word]
    : word.split(/(?<=[_/])|(?<=\w\.)(?=\w)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]))));
  // Descriptions are Markdown, of which only `code` is rendered.
  const prose = (text) => text.replaceAll("**", "").split("`").map((part, i) => (i % 2 ? el("code", {}, breakable(part)) : part));

  // The colour of a station by its bikes per dock, and what the colours mean.
  const fillClass = (bikes, docks) => {
    if (bikes == null) return "fill-none";
    if (bikes < 0.5) return "fill-0";
    if (!docks) return "fill-none";
    const share = bikes / docks;
    return share > 1 ? "fill-4" : share >= 2 / 3 ? "fill-3" : share >= 1 / 3 ? "fill-2" : "fill-1";
  };
  const fillLegend = () => el("ul", { class: "fills" }, [["fill-0", t("none")], ["fill-1", t("below ⅓")], ["fill-2", t("⅓ to ⅔")],
    ["fill-3", t("⅔ to 1")], ["fill-4", t("above docks")], ["fill-none", t("docks unknown")]].map(([name, label]) =>
    el("li", {}, el("span", { class: `dot ${name}`, "aria-hidden": "true" }), label)));

  const tile = (state, term, value, note) => el("div", { class: state }, el("p", { class: "term" }, term), el("p", { class: "value" }, value), el("p", { class: "quiet" }, note));
  const records = (dataset) => dataset.rows.map((row) => Object.fromEntries(dataset.columns.map((name, i) => [name, row[i]])));

  const notice = (dataset) => el("p", { class: "notice" }, dataset.missing.length
    ? t("No data yet: {tables} is not in the database. Run wrm_analytics_job in Dagster, which makes it and this page.",
      { tables: dataset.missing.join(", ") })
    : t("No data yet: {tables} holds no rows for this.", { tables: dataset.tables.join(", ") }));
  const source = (...datasets) => el("div", { class: "source" }, datasets.map((dataset) => el("details", {},
    el("summary", {}, el("span", {}, `${t("Source")}: `), el("code", {}, dataset.tables.join(", ")),
      el("span", {}, dataset.missing.length ? ` · ${t("missing")}`
        : dataset.refreshed ? ` · ${t("refreshed {time}", { time: time(dataset.refreshed) })}` : "")),
    el("pre", { tabindex: 0, role: "region", "aria-label": t("The query") }, dataset.sql))));
  // Draws a dataset into a host element, or says why there is nothing; with the source below.
  const figure = (host, dataset, draw) => {
    if (dataset.rows.length) draw(records(dataset)); else host.append(notice(dataset));
    host.append(source(dataset));
  };

  applyTheme();
  darkScheme.addEventListener("change", applyTheme);
  translatePage();
  const here = $("nav a[aria-current]"), menu = here.closest("nav");
  menu.scrollLeft = here.offsetLeft - menu.offsetLeft - 24; // if the menu is wider than the screen
  $("#theme").value = theme;
  $("#theme").addEventListener("change", ({ target }) => {
    theme = target.value;
    remember("wrm-theme", theme);
    applyTheme();
  });
  $("#language").textContent = language === "pl" ? "English" : "Polski";
  $("#language").lang = language === "pl" ? "en" : "pl";
  $("#language").addEventListener("click", () => {
    const other = language === "pl" ? "en" : "pl";
    remember("wrm-language", other);
    location.search = `?lang=${other}`;
  });
  $("#built").textContent = time(WRM.about.built);
  $("#built").dateTime = WRM.about.built;

  return {
    t, el, $, language, locale, number, percent, day, dayLong, dayShort, weekday, weekdayShort, time, clock, hour, plain,
    href, hash, isDark, onTheme, colour, records, notice, source, figure, breakable, prose, fillClass, fillLegend, tile,
  };
})();
