"use strict";
// The choice of a day: a list, the buttons beside it, and the day in the address. Returns the choice's first call.
const dayPicker = (dates, show, preferred = dates[0]) => {
  const { $, el, dayLong, hash } = site;
  const pick = $("#day"), before = $("#day-before"), after = $("#day-after");
  pick.append(...dates.map((date) => el("option", { value: date }, dayLong(date))));
  if (!dates.length) {
    for (const control of [pick, before, after]) control.disabled = true;
    show("");
    return;
  }
  const go = (date) => {
    if (!dates.includes(date)) return;
    pick.value = date;
    before.disabled = date === dates.at(-1);
    after.disabled = date === dates[0];
    show(date);
  };
  const choose = (date) => { history.replaceState(null, "", `#${date}`); go(date); };
  pick.addEventListener("change", () => choose(pick.value));
  before.addEventListener("click", () => choose(dates[dates.indexOf(pick.value) + 1]));
  after.addEventListener("click", () => choose(dates[dates.indexOf(pick.value) - 1]));
  addEventListener("hashchange", () => go(hash()));
  go(dates.includes(hash()) ? hash() : preferred);
};
