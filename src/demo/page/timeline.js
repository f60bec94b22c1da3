// What went and came: a sequence diagram with one arrow a row.

import { bytes, count, element } from "./format.js";

/** Rows that are kept; older ones make room. */
const MAX_ROWS = 400;

export class Timeline {
  #list;
  #counter;
  #waiting = [];
  #total = 0;
  #frame = 0;

  constructor(list, counter) {
    this.#list = list;
    this.#counter = counter;
  }

  /** The rows of one call, timed from now. `name` and `hue` tell several calls apart. */
  trace(name, hue) {
    const began = performance.now();
    return (direction, what, text = "", size, { bad = false, opens = false } = {}) => {
      const ms = performance.now() - began;
      this.#add({ direction, what, text, size, bad, opens, ms, name, hue });
    };
  }

  /** A remark between the calls. */
  note(text) {
    this.#add({ direction: "note", text });
  }

  clear() {
    this.#waiting = [];
    this.#total = 0;
    this.#list.replaceChildren();
    this.#counter.textContent = "";
  }

  // Rows are made once a frame, and only those that will be seen: a quick stream must not wait for the page.
  #add(event) {
    this.#total += 1;
    this.#waiting.push(event);
    if (this.#waiting.length > 2 * MAX_ROWS) this.#waiting.splice(0, MAX_ROWS);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#show();
    });
  }

  #show() {
    const list = this.#list;
    const follow = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    const fresh = this.#waiting.splice(0).slice(-MAX_ROWS);
    list.append(...fresh.map(row));
    while (list.childElementCount > MAX_ROWS) list.firstElementChild.remove();
    if (follow) list.scrollTop = list.scrollHeight;
    const hidden = this.#total - list.childElementCount;
    this.#counter.textContent = count(this.#total) + (hidden > 0 ? `, the last ${count(MAX_ROWS)} shown` : "");
  }
}

function row({ direction, what, text, size, bad, opens, ms, name, hue }) {
  if (direction === "note") {
    return element("li", { class: "event note" }, element("time"), element("div", { class: "lane" }, text));
  }
  const chip = element("div", { class: "what" });
  if (what) chip.append(element("b", {}, what));
  if (name) {
    const who = element("i", {}, name);
    who.style.setProperty("--hue", hue);
    chip.prepend(who);
  }
  if (text) chip.append(element("span", { title: text.length > 30 && text }, text));
  return element(
    "li",
    { class: `event fresh ${direction}${bad ? " bad" : ""}${opens ? " opens" : ""}` },
    element("time", {}, ms < 10 ? ms.toFixed(2) : ms < 1000 ? ms.toFixed(1) : count(Math.round(ms))),
    element("div", { class: "lane" }, chip),
    element("span", { class: "size" }, size === undefined ? "" : bytes(size)),
  );
}
