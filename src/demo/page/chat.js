// Two people on one page: each is one bidirectional stream.

import { DemoCall } from "./call.js";
import { element } from "./format.js";
import { ChatKind, ChatMessage } from "./messages.js";
import { codeName, ok } from "./result.js";

const NAMES = [
  "Ada", "Grace", "Alan", "Hedy", "Katherine", "Edsger", "Barbara", "Dennis", "Margaret", "Ken", "Radia", "Vint",
  "Frances", "Donald", "Karen", "Tim", "Adele", "Niklaus", "Mary", "Claude", "Lynn", "Tony", "Joan", "Linus",
];

const SCRIPT = [
  [0, "Hello! Are you on the same WebSocket?"],
  [1, "On the very same one. We are two streams of it."],
  [0, "And behind the proxy?"],
  [1, "Two gRPC calls over HTTP/2. The service never heard of WebSockets."],
  [0, "What if I say a lot while you don't listen?"],
  [1, "Then your credit runs out and you wait. Nobody else does."],
  [0, "And if I close the tab?"],
  [1, "Then the service is told within a blink. Try the second tab!"],
];

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** A colour for a name, the same in every tab. */
export function hueOf(name) {
  let hash = 7;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) % 3600;
  return hash % 360;
}

// Two names whose colours are easily told apart.
function twoNames() {
  const any = () => NAMES[Math.floor(Math.random() * NAMES.length)];
  const first = any();
  for (;;) {
    const second = any();
    const apart = Math.abs(hueOf(first) - hueOf(second));
    if (apart > 70 && apart < 290) return [first, second];
  }
}

class Person {
  #channel;
  #timeline;
  #room;
  #call;
  /** Texts heard in this call. */
  #heard = 0;

  constructor(channel, timeline, room, name) {
    this.#channel = channel;
    this.#timeline = timeline;
    this.#room = room;
    this.face = element("span", { class: "face", "aria-hidden": "true" });
    this.name = element("input", { value: name, maxlength: "24", "aria-label": "Name", autocomplete: "off", spellcheck: "false" });
    this.name.oninput = () => this.#paint();
    this.toggle = element("button", { type: "button", onclick: () => (this.#call ? this.leave() : this.join()) }, "Join");
    this.cut = element("button", { type: "button", class: "danger", title: "Cancel the call: no goodbye", onclick: () => this.#call?.cancel() }, "Cancel");
    this.log = element("ol", { class: "log", "aria-live": "polite", tabindex: "0" });
    this.text = element("input", { placeholder: "Say something", maxlength: "2000", autocomplete: "off" });
    this.send = element("button", { class: "primary" }, "Send");
    const form = element("form", { onsubmit: (event) => this.#submit(event) }, this.text, this.send);
    const head = element("header", {}, this.face, this.name, this.toggle, this.cut);
    this.node = element("section", { class: "person" }, head, this.log, form);
    this.#paint();
  }

  #paint() {
    const name = this.name.value.trim();
    this.node.style.setProperty("--hue", hueOf(name));
    this.node.setAttribute("aria-label", `${name || "Nobody"}'s conversation`);
    this.face.textContent = [...name][0]?.toUpperCase() ?? "?";
    this.text.setAttribute("aria-label", `${name} says`);
    const here = this.#call !== undefined;
    this.toggle.textContent = here ? "Leave" : "Join";
    this.toggle.title = here ? "Half-close: I have nothing more to say" : "";
    this.cut.hidden = !here;
    this.name.disabled = here;
  }

  /** Opens the stream and takes a seat in the room. */
  async join() {
    const room = this.#room.value.trim();
    const user = this.name.value.trim();
    const call = new DemoCall(this.#channel, this.#timeline, {
      method: "/demo.v1.Chat/Talk",
      request: ChatMessage,
      response: ChatMessage,
      name: user,
      hue: hueOf(user),
      metadata: { "x-user": encodeURIComponent(user) },
      describe: ({ kind, user: who, text, room: where }) =>
        kind === ChatKind.JOINED ? `${who} joined` : kind === ChatKind.LEFT ? `${who} left` : text || `join ${where}`,
    });
    this.#call = call;
    this.#heard = 0;
    this.#paint();
    call.send({ room, user }).catch(() => {});
    const status = await call.read((message) => this.#hear(message, user));
    this.#call = undefined;
    this.#paint();
    this.#aside(ok(status) ? "You left." : `${codeName(status)}: ${status.message}`, !ok(status) && status.code !== 1);
  }

  leave() {
    this.#call?.finish();
  }

  /** Says something; joins first when nobody sits here. */
  say(text) {
    if (!this.#call) this.join();
    this.#call.send({ text }).catch(() => {});
  }

  get here() {
    return this.#call !== undefined;
  }

  #submit(event) {
    event.preventDefault();
    const text = this.text.value.trim();
    if (!text) return;
    this.text.value = "";
    this.say(text);
  }

  #hear({ kind, user, text, time_ms, members, room }, me) {
    if (kind === ChatKind.TEXT) {
      const said = element(
        "li",
        { class: user === me ? "said mine" : "said" },
        element("b", {}, user),
        text,
        element("small", {}, `${(this.#heard += 1)} · ${clock.format(time_ms)}`),
      );
      said.style.setProperty("--hue", hueOf(user));
      this.#append(said);
    } else if (kind === ChatKind.JOINED) {
      this.#aside(user === me ? `You are in “${room}”, with ${members === 1 ? "nobody else yet" : `${members - 1} more`}.` : `${user} came in.`);
    } else if (kind === ChatKind.LEFT) {
      this.#aside(`${user} left.`);
    } else {
      this.#aside(text, true);
    }
  }

  #aside(text, bad = false) {
    this.#append(element("li", { class: bad ? "aside bad" : "aside" }, text));
  }

  #append(item) {
    this.log.append(item);
    while (this.log.childElementCount > 200) this.log.firstElementChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
  }
}

export function setUpChat(channel, timeline) {
  const room = document.getElementById("chat-room");
  const people = twoNames().map((name) => new Person(channel, timeline, room, name));
  document.getElementById("chat-pair").append(...people.map((person) => person.node));

  // A new room means a new call: the first message of a call names it.
  room.onchange = () => {
    for (const person of people) person.leave();
    setTimeout(() => people.forEach((person) => person.here || person.join()), 300);
  };

  const button = document.getElementById("chat-script");
  button.onclick = async () => {
    button.disabled = true;
    for (const [who, text] of SCRIPT) {
      people[who].say(text);
      await new Promise((resolve) => setTimeout(resolve, 700 + text.length * 22));
    }
    button.disabled = false;
  };

  return { start: () => people.forEach((person) => person.here || person.join()) };
}
