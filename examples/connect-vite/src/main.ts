import { ConnectError, createClient } from "@connectrpc/connect";
import { Chat, ChatMessage_Kind, Greeter } from "./gen/demo/v1/demo_pb";
import type { ChatMessage } from "./gen/demo/v1/demo_pb";
import { Outgoing } from "./outgoing";
import { channel, transport } from "./transport";

const greeter = createClient(Greeter, transport);
const chat = createClient(Chat, transport);

const find = <E extends HTMLElement>(selector: string) => document.querySelector<E>(selector)!;
const join = find<HTMLFormElement>("#join");
const say = find<HTMLFormElement>("#say");
const log = find("#log");
channel.on("state", (state) => (find("#state").textContent = state));

let outgoing: Outgoing<{ room?: string; user?: string; text?: string }>;

join.onsubmit = async (event) => {
  event.preventDefault();
  const { user, room } = Object.fromEntries(new FormData(join)) as Record<string, string>;
  outgoing = new Outgoing();
  outgoing.push({ user, room });
  show(true);
  try {
    // Two calls, one WebSocket: a unary one, and one that lasts as long as the visit.
    const { text } = await greeter.hello({ name: user });
    write("notice", text);
    for await (const message of chat.talk(outgoing)) receive(message, user);
    write("notice", "You have left.");
  } catch (error) {
    write("error", ConnectError.from(error).message);
  }
  show(false);
};

say.onsubmit = (event) => {
  event.preventDefault();
  outgoing.push({ text: String(new FormData(say).get("text")) });
  say.reset();
};
find("#leave").onclick = () => outgoing.end();

function receive({ kind, user, text, members }: ChatMessage, me: string) {
  if (kind === ChatMessage_Kind.TEXT) write(user === me ? "mine" : "theirs", text, user);
  else if (kind === ChatMessage_Kind.JOINED) write("notice", `${user} has come in, ${members} here`);
  else if (kind === ChatMessage_Kind.LEFT) write("notice", `${user} has gone, ${members} here`);
  else write("notice", text);
}

function write(kind: "mine" | "theirs" | "notice" | "error", text: string, user = "") {
  const line = document.createElement("li");
  line.className = kind;
  line.dataset.user = user;
  line.textContent = text;
  log.append(line);
  line.scrollIntoView({ block: "nearest" });
}

function show(joined: boolean) {
  join.hidden = joined;
  say.hidden = !joined;
  (joined ? say.elements.namedItem("text") as HTMLInputElement : join.querySelector("input")!).focus();
}
