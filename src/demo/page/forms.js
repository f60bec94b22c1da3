// The forms for the kinds of call besides the chat. Each holds at most one call at a time.

import { DemoCall } from "./call.js";
import { bytes, count, duration, element, plural } from "./format.js";
import * as messages from "./messages.js";
import { codec, read, write } from "./mode.js";
import { CODES, ok, resultCard } from "./result.js";

const number = (input) => (input.value === "" ? undefined : Number(input.value));

/** What the forms have in common: one call, its buttons, its result. */
class CallForm {
  constructor(channel, timeline, id) {
    this.channel = channel;
    this.timeline = timeline;
    this.panel = document.getElementById(`panel-${id}`);
    this.form = this.panel.querySelector("form");
    this.fields = this.form.elements;
    this.result = this.panel.querySelector(".result");
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.submit();
    };
    this.fields.cancel.onclick = () => this.call?.cancel();
    if (this.fields.finish) this.fields.finish.onclick = () => this.finish();
  }

  open(options) {
    this.result.replaceChildren();
    this.call = new DemoCall(this.channel, this.timeline, { timeoutMs: number(this.fields.deadline ?? { value: "" }), ...options });
    this.#buttons();
    return this.call;
  }

  finish() {
    this.call.finish();
    this.fields.finish.disabled = true;
  }

  /** Reads the call to its end and shows how it ended. `answer` makes the big line. */
  async settle(take, answer) {
    const call = this.call;
    const status = await call.read(take);
    if (this.call === call) this.call = undefined;
    this.#buttons();
    const card = resultCard(status, { answer: answer?.(status, call), headers: await call.headers, took: call.took });
    this.result.replaceChildren(card);
    return status;
  }

  #buttons() {
    const { cancel, finish, pause } = this.fields;
    for (const button of [cancel, finish, pause]) if (button) button.disabled = !this.call;
  }
}

class HelloForm extends CallForm {
  constructor(...args) {
    super(...args, "hello");
    this.fields.look.onclick = () => this.look();
  }

  // RFC 5322-like lines; a line without a colon is left out.
  #metadata() {
    const lines = this.fields.metadata.value.split("\n").map((line) => line.match(/^\s*([^:\s]+)\s*:\s*(.*?)\s*$/));
    return lines.filter(Boolean).map(([, name, value]) => [name.toLowerCase(), value]);
  }

  async submit() {
    this.call?.cancel();
    const delay = number(this.fields.delay);
    const metadata = this.#metadata();
    if (delay) metadata.push(["demo-delay-ms", String(delay)]);
    const { HelloRequest: request, HelloReply: response } = messages;
    const describe = (message) => message.text ?? message.name;
    const call = this.open({ method: "/demo.v1.Greeter/Hello", request, response, metadata, describe });
    call.send({ name: this.fields.name.value }).catch(() => {});
    call.finish();
    let text;
    await this.settle((reply) => (text = reply.text), () => text);
  }

  async look() {
    this.call?.cancel();
    const metadata = [...this.#metadata(), ["demo-echo-from-page", "seen in both directions"]];
    const { Empty: request, MetadataReply: response } = messages;
    const describe = ({ entries }) => entries && plural(entries.length, "header");
    const call = this.open({ method: "/demo.v1.Lab/Metadata", request, response, metadata, describe });
    call.send({}).catch(() => {});
    call.finish();
    let reply;
    await this.settle((message) => (reply = message));
    if (!reply) return;
    const seen = { code: 0, message: "", metadata: [], details: new Uint8Array() };
    const card = resultCard(seen, { headers: reply.entries.map(({ name, text }) => [name, text]) });
    card.classList.remove("ok");
    card.querySelector("h3").replaceChildren("The headers that reached the service");
    card.querySelector("h4").remove();
    this.result.append(card);
  }
}

class DownloadForm extends CallForm {
  constructor(...args) {
    super(...args, "download");
    const { count: total, size, interval, pause } = this.fields;
    for (const button of this.form.querySelectorAll("[data-preset]")) {
      button.onclick = () => {
        [total.value, size.value, interval.value] = button.dataset.preset.split(" ");
        this.submit();
      };
    }
    pause.onclick = () => this.#pause(pause.getAttribute("aria-pressed") !== "true");
    const meter = this.panel.querySelector(".meter");
    this.meter = { box: meter, bar: meter.querySelector("progress"), text: meter.querySelector(".meter-text"), note: meter.querySelector(".meter-note") };
  }

  #pause(paused) {
    this.fields.pause.setAttribute("aria-pressed", paused);
    this.fields.pause.textContent = paused ? "Read on" : "Pause reading";
    if (paused) this.paused = new Promise((resolve) => (this.resume = resolve));
    else this.resume?.();
    if (paused) this.#watch();
    else {
      this.paused = undefined;
      this.meter.note.textContent = "";
    }
  }

  // While paused: how far ahead the service could get.
  async #watch() {
    const call = this.call;
    while (this.paused && this.call === call && call) {
      const asking = this.channel.open({ method: "/demo.v1.Lab/Stats", codec });
      asking.send(write(messages.StatsRequest, { tag: this.tag })).catch(() => {});
      asking.halfClose();
      try {
        for await (const reply of asking) {
          const { sent } = read(messages.StatsReply, reply);
          if (this.paused) {
            this.meter.note.textContent = `Paused at ${count(this.got)}. The service could send ${count(sent)}, then had to wait too: what is under way is bounded.`;
          }
        }
      } catch {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
  }

  async submit() {
    this.call?.cancel();
    this.#pause(false);
    const total = number(this.fields.count) ?? 0;
    const request = { count: total, size: number(this.fields.size) ?? 0, interval_ms: number(this.fields.interval) ?? 0 };
    this.tag = `page-${Math.random().toString(36).slice(2)}`;
    const call = this.open({
      method: "/demo.v1.Lab/ServerStream",
      request: messages.StreamRequest,
      response: messages.Payload,
      metadata: { "demo-tag": this.tag },
      describe: (message) => (message.interval_ms === undefined ? `no. ${count(message.number)}` : `${count(message.count)} × ${bytes(message.size)}`),
    });
    call.send(request).catch(() => {});
    call.finish();
    let volume = 0;
    this.got = 0;
    const began = performance.now();
    const { box, bar, text } = this.meter;
    box.hidden = false;
    const rates = () => {
      const seconds = (performance.now() - began) / 1000;
      return `${plural(this.got, "message")}, ${bytes(volume)} in ${duration(seconds * 1000)}: ${count(Math.round(this.got / seconds))}/s, ${bytes(Math.round(volume / seconds))}/s`;
    };
    let shown = 0;
    await this.settle(async (message) => {
      this.got += 1;
      volume += message.data.length;
      if (performance.now() - shown > 50) {
        shown = performance.now();
        bar.value = this.got / total;
        text.textContent = rates();
        // Let the page breathe: a paint between the messages of a quick stream.
        await new Promise((resolve) => setTimeout(resolve));
      }
      await Promise.race([this.paused, call.status]);
    }, (status) => ok(status) ? `${plural(this.got, "message")} arrived, none missing` : undefined);
    bar.value = this.got / total || 0;
    text.textContent = rates();
    this.#pause(false);
  }
}

class UploadForm extends CallForm {
  constructor(...args) {
    super(...args, "upload");
    this.fields.many.onclick = async () => {
      this.#ready();
      const text = "x".repeat(10 * 1024);
      try {
        for (let i = 0; i < 100; i++) await this.call.send({ text });
      } catch {
        // The status tells it.
      }
    };
  }

  // The first message opens the call.
  #ready() {
    if (this.call) return;
    const describe = ({ text, messages: n }) => (n === undefined ? text.slice(0, 80) : `${plural(n, "message")} counted`);
    this.open({ method: "/demo.v1.Lab/ClientStream", request: messages.Payload, response: messages.Summary, describe });
    let summary;
    this.settle((message) => (summary = message), () => summary && `The service received ${plural(summary.messages, "message")}, ${bytes(summary.bytes)}`);
  }

  submit() {
    this.#ready();
    const { text } = this.fields;
    this.call.send({ text: text.value || "(nothing)" }).catch(() => {});
    text.value = "";
  }
}

const ROUNDS = 1000;

class EchoForm extends CallForm {
  constructor(...args) {
    super(...args, "echo");
    this.histogram = this.panel.querySelector(".histogram");
    this.fields.rounds.onclick = () => this.rounds();
  }

  #open(quiet, take) {
    this.open({
      method: "/demo.v1.Lab/Bidi",
      request: messages.Payload,
      response: messages.Payload,
      describe: (message) => message.text,
      quiet,
    });
    let n = 0;
    return this.settle(async (message) => {
      n += 1;
      await take?.(message);
    }, () => this.said ?? `${plural(n, "answer")}`);
  }

  submit() {
    this.said = undefined;
    if (!this.call) {
      this.histogram.hidden = true;
      this.#open(false);
    }
    const { text } = this.fields;
    this.call.send({ text: text.value || "ping", number: 1 }).catch(() => {});
    text.value = "";
  }

  async rounds() {
    this.call?.cancel();
    const times = [];
    this.said = "…";
    let sent;
    const ping = (k) => {
      sent = performance.now();
      this.call.send({ number: k }).catch(() => {});
    };
    const ended = this.#open(true, ({ number: k }) => {
      times.push(performance.now() - sent);
      if (k < ROUNDS) ping(k + 1);
      else {
        const all = times.reduce((sum, ms) => sum + ms, 0);
        this.said = `${plural(times.length, "round")} in ${duration(all)}`;
        this.timeline.note(`${this.said}, half of them under ${duration(quantile(times, 0.5))}`);
        this.finish();
      }
    });
    ping(1);
    await ended;
    if (times.length) this.#draw(times);
  }

  #draw(times) {
    const low = Math.min(...times);
    const high = quantile(times, 0.99);
    // Browsers tell time in steps of 0.1 ms or coarser: narrower bars would show the clock.
    const width = Math.max(0.1, Math.ceil((high - low) / 4) / 10);
    const bars = new Array(Math.floor((high - low) / width) + 1).fill(0);
    for (const ms of times) bars[Math.min(bars.length - 1, Math.floor((ms - low) / width))] += 1;
    const most = Math.max(...bars);
    const nodes = bars.map((n, i) => {
      const bar = element("i", { title: `${plural(n, "round")} from ${duration(low + width * i)}` });
      bar.style.height = `${(n / most) * 100}%`;
      return bar;
    });
    const note = `half under ${duration(quantile(times, 0.5))}, 99 % under ${duration(high)}`;
    this.histogram.replaceChildren(...nodes, element("span", {}, duration(low)), element("span", {}, note));
    this.histogram.hidden = false;
  }
}

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

class FailureForm extends CallForm {
  constructor(...args) {
    super(...args, "failure");
    const { code } = this.fields;
    for (const [value, name] of CODES.entries()) {
      if (value > 0) code.append(element("option", { value, selected: name === "FAILED_PRECONDITION" }, name));
    }
    code.onchange = () => this.submit();
  }

  submit() {
    this.call?.cancel();
    const { code, message, after, reason, field, description } = this.fields;
    const request = {
      code: Number(code.value),
      message: message.value,
      after: number(after) ?? 0,
      reason: reason.value,
      info: reason.value ? { page: location.host, asked: "politely" } : {},
      violations: field.value ? [{ field: field.value, description: description.value }] : [],
    };
    const call = this.open({
      method: request.after > 0 ? "/demo.v1.Lab/FailStream" : "/demo.v1.Lab/Fail",
      request: messages.FailRequest,
      response: messages.Payload,
      metadata: { "demo-echo-asked": new Date().toISOString() },
      describe: (message) => (message.code ? CODES[message.code] : `no. ${message.number}`),
    });
    call.send(request).catch(() => {});
    call.finish();
    let got = 0;
    this.settle(() => (got += 1), () => (got ? `${plural(got, "message")}, then:` : undefined));
  }
}

export function setUpForms(channel, timeline) {
  for (const Form of [HelloForm, DownloadForm, UploadForm, EchoForm, FailureForm]) new Form(channel, timeline);
}
