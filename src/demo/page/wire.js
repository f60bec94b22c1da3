// What the browser's sockets really carry, counted below the client library.

import { totals } from "./call.js";
import { bytes, count, element, plural } from "./format.js";

const wire = { sockets: 0, open: new Set(), packetsUp: 0, packetsDown: 0, bytesUp: 0, bytesDown: 0 };

/** The latest packets that were text: direction and text, as they passed. */
const packets = [];
const PACKETS = 40;

function keep(direction, data) {
  if (typeof data !== "string") return;
  packets.push([direction, data]);
  if (packets.length > PACKETS) packets.shift();
  changed = true;
}
let changed = false;

/** What ends when the wire is cut; aborted as long as it is. */
let cut = new AbortController();

const CUT = { code: 1006, reason: "the wire is cut" };

/** A WebSocket that counts, and that can be cut. */
export class CountedSocket extends WebSocket {
  constructor(url, protocols) {
    if (cut.signal.aborted) return dead();
    super(url, protocols);
    wire.sockets += 1;
    wire.open.add(this);
    this.addEventListener("close", () => wire.open.delete(this));
    this.addEventListener("message", ({ data }) => {
      if (!wire.open.has(this)) return;
      wire.packetsDown += 1;
      wire.bytesDown += data.byteLength ?? data.length;
      keep("down", data);
    });
  }

  send(data) {
    wire.packetsUp += 1;
    wire.bytesUp += data.byteLength ?? data.length;
    keep("up", data);
    super.send(data);
  }
}

/** What `fetch` is for the client library, where WebSockets are blocked. */
export function cuttableFetch(input, init = {}) {
  const signals = [cut.signal, init.signal].filter(Boolean);
  return fetch(input, { ...init, signal: AbortSignal.any(signals) });
}

/** A socket that never opens, as without a network. */
function dead() {
  const socket = { bufferedAmount: 0, send() {}, close() {} };
  setTimeout(() => socket.onclose?.(CUT), 50);
  return socket;
}

/**
 * Cuts the wire, behind the client library's back: what is on its way is lost in both directions, and nothing gets
 * through any more.
 */
export function cutWire() {
  cut.abort(new TypeError(CUT.reason));
  for (const socket of wire.open) {
    const { onclose } = socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // Without a code, as when the network is gone: the proxy keeps the session.
    socket.close();
    setTimeout(() => onclose?.call(socket, CUT));
  }
  wire.open.clear();
}

/** Mends it, and says so as a browser does. */
export function mendWire() {
  cut = new AbortController();
  dispatchEvent(new Event("online"));
}

export const isCut = () => cut.signal.aborted;

const SECONDS = 60;
const PER_SECOND = 2;

const ROWS = [
  ["Messages", () => [totals.messagesUp, totals.messagesDown], count],
  ["their bytes", () => [totals.payloadUp, totals.payloadDown], bytes],
  ["Packets", () => [wire.packetsUp, wire.packetsDown], count],
  ["their bytes", () => [wire.bytesUp, wire.bytesDown], bytes],
];

/** Shows the facts, twice a second. */
export function showWire(box, chart) {
  const summary = element("p");
  const cells = ROWS.map(() => [element("td", { class: "up" }), element("td", { class: "down" })]);
  const rows = ROWS.map(([name], i) => element("tr", {}, element("th", { scope: "row" }, name), ...cells[i]));
  const head = ["", "up", "down"].map((name) => element("th", { scope: "col", class: name }, name));
  box.append(summary, element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));

  const history = Array.from({ length: SECONDS * PER_SECOND }, () => [0, 0]);
  let last = [0, 0];
  const show = () => {
    const sockets = wire.open.size;
    write(
      summary,
      `${plural(sockets, "WebSocket")}, ${plural(totals.open, "stream")} on ${sockets === 1 ? "it" : "them"}; ` +
        `${plural(wire.sockets, "socket")} and ${plural(totals.calls, "call")} so far`,
    );
    ROWS.forEach(([, read, format], i) => read().forEach((value, side) => write(cells[i][side], format(value))));
    history.push([wire.bytesUp - last[0], wire.bytesDown - last[1]]);
    history.shift();
    last = [wire.bytesUp, wire.bytesDown];
    draw(chart, history);
  };
  show();
  setInterval(show, 1000 / PER_SECOND);
}

/** Shows the latest packets of a text session. */
export function showPackets(list) {
  list.hidden = false;
  setInterval(() => {
    if (!changed) return;
    changed = false;
    list.replaceChildren(...packets.map(([direction, text]) => element("li", { class: direction }, text.length > 400 ? `${text.slice(0, 400)} …` : text)));
    list.scrollTop = list.scrollHeight;
  }, 1000 / PER_SECOND);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Up grows upwards from the middle, down downwards; the scale is logarithmic, so that a word is seen beside a MiB.
function draw(chart, history) {
  const height = (n) => (n === 0 ? 0 : 2 + 2.6 * Math.log2(1 + n / 8));
  ["up", "down"].forEach((direction, side) => {
    const sign = side === 0 ? -1 : 1;
    const points = history.map((pair, i) => `${(i * 240) / (history.length - 1)} ${22 + (sign * Math.min(height(pair[side]), 62) * 21) / 62}`);
    let path = chart.querySelector(`.${direction}`);
    if (!path) {
      path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", direction);
      chart.append(path);
    }
    path.setAttribute("d", `M0 22L${points.join("L")}L240 22`);
  });
}
