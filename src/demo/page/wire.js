// What the browser's sockets really carry, counted below the client library.

import { totals } from "./call.js";
import { bytes, count, element } from "./format.js";

const wire = { sockets: 0, open: new Set(), packetsUp: 0, packetsDown: 0, bytesUp: 0, bytesDown: 0 };

/** A WebSocket that counts. */
export class CountedSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    wire.sockets += 1;
    wire.open.add(this);
    this.addEventListener("close", () => wire.open.delete(this));
    this.addEventListener("message", ({ data }) => {
      wire.packetsDown += 1;
      wire.bytesDown += data.byteLength ?? data.length;
    });
  }

  send(data) {
    wire.packetsUp += 1;
    wire.bytesUp += data.byteLength ?? data.length;
    super.send(data);
  }
}

/** Closes the sockets as a failing network would, behind the client library's back. */
export function cutSockets() {
  for (const socket of wire.open) socket.close();
}

const SECONDS = 60;
const PER_SECOND = 2;

/** Shows the facts, twice a second. */
export function showWire(list, chart) {
  const cells = {};
  const fact = (name, key, direction) => {
    cells[key] = element("dd", { class: direction ?? "" });
    list.append(element("dt", {}, name), cells[key]);
  };
  fact("WebSockets open", "open");
  fact("opened so far", "sockets");
  fact("streams open", "streams");
  fact("calls so far", "calls");
  fact("messages up", "messagesUp", "up");
  fact("packets, bytes", "up", "up");
  fact("messages down", "messagesDown", "down");
  fact("packets, bytes", "down", "down");

  const history = Array.from({ length: SECONDS * PER_SECOND }, () => [0, 0]);
  let last = [0, 0];
  const show = () => {
    const texts = {
      open: count(wire.open.size),
      sockets: count(wire.sockets),
      streams: count(totals.open),
      calls: count(totals.calls),
      messagesUp: count(totals.messagesUp),
      messagesDown: count(totals.messagesDown),
      up: `${count(wire.packetsUp)}, ${bytes(wire.bytesUp)}`,
      down: `${count(wire.packetsDown)}, ${bytes(wire.bytesDown)}`,
    };
    for (const [key, text] of Object.entries(texts)) {
      if (cells[key].textContent !== text) cells[key].textContent = text;
    }
    history.push([wire.bytesUp - last[0], wire.bytesDown - last[1]]);
    history.shift();
    last = [wire.bytesUp, wire.bytesDown];
    draw(chart, history);
  };
  show();
  setInterval(show, 1000 / PER_SECOND);
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
