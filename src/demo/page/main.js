// The page: one channel, a tab for each kind of call, a timeline, and what the wire carries.

import { setUpChat } from "./chat.js";
import { CODE, showCode } from "./code.js";
import { setUpForms } from "./forms.js";
import { readable, switchMode } from "./mode.js";
import { Timeline } from "./timeline.js";
import { CountedSocket, cutWire, cuttableFetch, isCut, mendWire, showPackets, showWire } from "./wire.js";

const PROTOCOL = readable ? "bidiway.v1+json" : "bidiway.v1";
const $ = (id) => document.getElementById(id);

// A session of text is for looking at: it does not outlive its socket.
const { createChannel } = await import(readable ? "/bidiway/index.js" : "/bidiway/durable.js");
const WebSocket = readable ? (await import("/bidiway/text.js")).textFrames(CountedSocket) : CountedSocket;
const channel = createChannel({ WebSocket, fetch: cuttableFetch });
const timeline = new Timeline($("events"), $("timeline-count"));

showConnection();
setUpForms(channel, timeline);
const chat = setUpChat(channel, timeline);
showWire($("wire"), $("traffic"));
if (readable) showPackets($("packets"));
setUpTabs();
setUpTheme();

$("clear").onclick = () => timeline.clear();
$("readable").setAttribute("aria-pressed", readable);
$("readable").onclick = switchMode;
$("copy").onclick = async () => {
  await navigator.clipboard?.writeText($("code").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1200);
};

function showConnection() {
  const badge = $("badge");
  const words = {
    idle: ["idle", "not connected"],
    connecting: ["connecting", "connecting"],
    ready: ["open", "connected"],
    reconnecting: ["waiting", "reconnecting"],
    draining: ["waiting", "moving on"],
    closed: ["closed", "closed"],
    failed: ["closed", "refused"],
  };
  const button = $("cut");
  let lost = 0;
  const show = (state, reason) => {
    const [look, text] = words[state] ?? ["waiting", state];
    if (state === "reconnecting" && badge.dataset.state === "open") {
      lost += 1;
      timeline.note(readable ? "The connection is lost, and the calls with it." : "The connection is lost. The calls wait.");
    } else if (state === "ready") {
      const again = readable ? "Connected again." : "Connected again. The calls go on where they were.";
      timeline.note(lost ? again : "The connection is open.");
    }
    badge.dataset.state = look;
    const again = state === "ready" && lost > 0 ? `, ${lost === 1 ? "once" : `${lost} times`} again` : "";
    badge.textContent = text + again;
    badge.title = reason?.message ?? `${location.host}, subprotocol ${PROTOCOL}`;
    button.disabled = state !== "ready" && !isCut();
  };
  button.onclick = () => {
    const cut = !isCut();
    if (cut) cutWire();
    button.textContent = cut ? "Mend the wire" : "Cut the wire";
    button.setAttribute("aria-pressed", cut);
    timeline.note(cut ? "You have cut the wire." : "You have mended the wire.");
    if (!cut) mendWire();
  };
  channel.on("state", show);
  show(channel.state);
}

// One tab for each kind of call; arrow keys move between them, and the address remembers which.
function setUpTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const select = (tab) => {
    for (const other of tabs) {
      const selected = other === tab;
      other.setAttribute("aria-selected", selected);
      other.tabIndex = selected ? 0 : -1;
      $(`panel-${other.dataset.kind}`).hidden = !selected;
    }
    // On a phone the row of tabs is wider than the screen. (scrollIntoView would scroll the page as well.)
    const row = tab.parentElement;
    row.scrollLeft = tab.offsetLeft - row.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2;
    showCode($("code"), CODE[tab.dataset.kind]);
    history.replaceState(null, "", `#${tab.dataset.kind}`);
    if (tab.dataset.kind === "chat") chat.start();
  };
  for (const [i, tab] of tabs.entries()) {
    tab.onclick = () => select(tab);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      const to = step ? tabs[(i + step + tabs.length) % tabs.length] : { Home: tabs[0], End: tabs.at(-1) }[key];
      if (!to) return;
      to.focus();
      select(to);
    };
  }
  select(tabs.find((tab) => `#${tab.dataset.kind}` === location.hash) ?? tabs[0]);
}

// The system's choice, until the button says otherwise.
function setUpTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const paint = () => $("theme").querySelector("use").setAttribute("href", isDark() ? "#i-sun" : "#i-moon");
  try {
    const kept = localStorage.getItem("theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {
    // No storage, no memory.
  }
  $("theme").onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // As above.
    }
    paint();
  };
  dark.addEventListener("change", paint);
  paint();
}
