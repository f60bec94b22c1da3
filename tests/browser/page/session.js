// What the tests run in the page: unmodified generated clients over the shim's Connect transport.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createChannel } from "/bidiway/index.js";
import { createTransport } from "/bidiway/connect.js";
import { ChatMessage_Kind, Chat, Greeter, Lab } from "#gen/demo/v1/demo_pb.js";
import { BadRequestSchema, ErrorInfoSchema } from "#gen/google/rpc/error_details_pb.js";

export const channel = createChannel();
const transport = createTransport(channel);
const greeter = createClient(Greeter, transport);
const chat = createClient(Chat, transport);
const lab = createClient(Lab, transport);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A queue that a request stream reads from: `push` and `end` from outside. */
function queue() {
  const waiting = [];
  let wake = () => {};
  let ended = false;
  return {
    push(value) {
      waiting.push(value);
      wake();
    },
    end() {
      ended = true;
      wake();
    },
    async *[Symbol.asyncIterator]() {
      for (;;) {
        while (waiting.length) yield waiting.shift();
        if (ended) return;
        await new Promise((resolve) => (wake = resolve));
      }
    },
  };
}

/** What a failing call throws, in a shape that leaves the page. */
async function failure(run) {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    return {
      code: error.code,
      name: Code[error.code],
      message: error.rawMessage,
      metadata: Object.fromEntries(error.metadata),
      badRequest: error.findDetails(BadRequestSchema).map(({ fieldViolations }) => fieldViolations.map(({ field, description }) => ({ field, description }))),
      errorInfo: error.findDetails(ErrorInfoSchema).map(({ reason, domain, metadata }) => ({ reason, domain, metadata })),
    };
  }
  throw new Error("the call did not fail");
}

/** Waits until the service's count of the calls with this tag is as wanted. */
async function stats(tag, wanted, timeoutMs = 1000) {
  const start = performance.now();
  for (;;) {
    const { running, completed, cancelled, received, sent } = await lab.stats({ tag });
    const seen = { running, completed, cancelled, received, sent };
    const numbers = Object.fromEntries(Object.entries(seen).map(([key, value]) => [key, Number(value)]));
    if (Object.entries(wanted).every(([key, value]) => numbers[key] === value)) return { ...numbers, ms: performance.now() - start };
    if (performance.now() - start > timeoutMs) throw new Error(`after ${timeoutMs} ms: ${JSON.stringify(numbers)} instead of ${JSON.stringify(wanted)}`);
    await sleep(10);
  }
}

export const cases = {
  async unary() {
    return (await greeter.hello({ name: "Ada" })).text;
  },

  async metadata() {
    let header, trailer;
    const reply = await lab.metadata({}, {
      headers: [["x-one", "1"], ["x-one", "2"], ["x-two-bin", btoa("\x00\xff")], ["demo-echo-me", "here"]],
      timeoutMs: 10_000,
      onHeader: (headers) => (header = Object.fromEntries(headers)),
      onTrailer: (headers) => (trailer = Object.fromEntries(headers)),
    });
    const entries = reply.entries.map(({ name, text, binary }) => [name, text, [...binary]]);
    return { entries, timeoutMs: Number(reply.timeoutMs), header, trailer };
  },

  async serverStream() {
    const numbers = [];
    for await (const { number, data } of lab.serverStream({ count: 500, size: 100 })) numbers.push([Number(number), data.length]);
    return numbers;
  },

  async clientStream() {
    const input = async function* () {
      for (let i = 1; i <= 500; i++) yield { number: BigInt(i), data: new Uint8Array(100) };
    };
    const { messages, bytes } = await lab.clientStream(input());
    return [Number(messages), Number(bytes)];
  },

  /** Two people in a room: each hears the other; half-close leaves the room. */
  async chat(room) {
    const ada = queue(), bob = queue();
    const heard = { ada: [], bob: [] };
    const listen = async (name, input, onMessage) => {
      input.push({ room, user: name });
      for await (const { kind, user, text } of chat.talk(input)) {
        heard[name].push([ChatMessage_Kind[kind], user, text]);
        onMessage(kind, user, text);
      }
    };
    const first = listen("ada", ada, (kind, user, text) => {
      if (kind === ChatMessage_Kind.JOINED && user === "bob") ada.push({ text: "hello bob" });
      if (text === "hello ada") ada.end();
    });
    while (!heard.ada.length) await sleep(5);
    const second = listen("bob", bob, (kind, user, text) => {
      if (text === "hello bob") bob.push({ text: "hello ada" });
      if (kind === ChatMessage_Kind.LEFT && user === "ada") bob.end();
    });
    await Promise.all([first, second]);
    return heard;
  },

  /** The client sends k + 1 only after answer k. */
  async pingPong(rounds) {
    const input = queue();
    input.push({ number: 1n });
    let k = 1;
    for await (const { number } of lab.bidi(input)) {
      if (number !== BigInt(k)) throw new Error(`answer ${number} instead of ${k}`);
      if (k === rounds) input.end();
      else input.push({ number: BigInt(++k) });
    }
    return k;
  },

  /** Many bidirectional streams are open at the same time: nobody ends before everybody has had an answer. */
  async manyStreams(count) {
    const inputs = Array.from({ length: count }, () => queue());
    let answered = 0;
    const run = async (input, i) => {
      input.push({ number: BigInt(i) });
      const seen = [];
      for await (const { number } of lab.bidi(input)) {
        seen.push(Number(number));
        if (seen.length === 1 && ++answered === count) for (const each of inputs) each.push({ number: 1_000_000n });
        if (seen.length === 2) input.end();
      }
      return seen[0] === i && seen[1] === 1_000_000 && seen.length === 2;
    };
    return (await Promise.all(inputs.map(run))).filter(Boolean).length;
  },

  /** A reader who stops stalls its own stream, and nobody else. */
  async stalledReader(tag) {
    const stalled = lab.serverStream({ count: 100_000, size: 1000 }, { headers: { "demo-tag": tag } })[Symbol.asyncIterator]();
    await stalled.next();
    const rounds = await cases.pingPong(200);
    const numbers = await cases.serverStream();
    const before = Number((await lab.stats({ tag })).sent);
    await sleep(300);
    const after = Number((await lab.stats({ tag })).sent);
    // It goes on when it is read again.
    for (let i = 0; i < 5000; i++) if ((await stalled.next()).done) throw new Error("ended");
    return { rounds, others: numbers.length, before, after };
  },

  async abortUnary(tag) {
    const controller = new AbortController();
    const call = failure(() => lab.wait({}, { signal: controller.signal, headers: { "demo-tag": tag } }));
    await stats(tag, { running: 1 });
    controller.abort();
    const { name } = await call;
    return { name, ...(await stats(tag, { running: 0, cancelled: 1 })) };
  },

  async abortBidi(tag) {
    const controller = new AbortController();
    const input = queue();
    input.push({ number: 1n });
    const call = failure(async () => {
      for await (const _ of lab.bidi(input, { signal: controller.signal, headers: { "demo-tag": tag } })) controller.abort();
    });
    const { name } = await call;
    return { name, ...(await stats(tag, { running: 0, cancelled: 1 })) };
  },

  richStatus: () =>
    failure(() =>
      lab.fail({
        code: 9,
        message: "nö: 100 % 😀",
        reason: "OUT_OF_CHEESE",
        info: { shop: "5" },
        violations: [{ field: "cheese", description: "none left" }],
      }, { headers: { "demo-echo-x": "y" } }),
    ),

  invalidArgument: () => failure(() => greeter.hello({})),

  async failStream() {
    const numbers = [];
    const error = await failure(async () => {
      for await (const { number } of lab.failStream({ code: 8, message: "enough", after: 3 })) numbers.push(Number(number));
    });
    return { numbers, ...error };
  },

  async deadline(tag) {
    const start = performance.now();
    const { name } = await failure(() => lab.wait({}, { timeoutMs: 200, headers: { "demo-tag": tag } }));
    const ms = performance.now() - start;
    return { ...(await stats(tag, { running: 0, cancelled: 1 })), name, ms };
  },

  /** Initial metadata arrives before the first message of a stream that stays silent. */
  async waitStream(tag) {
    let header = false;
    const controller = new AbortController();
    const options = { signal: controller.signal, headers: { "demo-tag": tag }, onHeader: () => (header = true) };
    let messages = 0;
    const { name } = await failure(async () => {
      for await (const _ of lab.waitStream({}, options)) {
        messages++;
        setTimeout(() => controller.abort(), 50);
      }
    });
    return { header, messages, name };
  },

  async large(size) {
    const data = new Uint8Array(size).map((_, i) => (i * 31) % 251);
    const reply = await lab.unary({ data });
    return reply.data.length === size && reply.data.every((byte, i) => byte === data[i]);
  },

  async tooLarge() {
    return (await failure(() => lab.unary({ data: new Uint8Array(5 * 1024 * 1024) }))).name;
  },

  async unknownMethod() {
    const call = channel.open({ method: "/demo.v1.Lab/Nothing" });
    call.halfClose();
    const { code, origin } = await call.status;
    return { code, origin };
  },

  /** A worker of a blob belongs to the network that the page came from; one of a script that the test made does not. */
  async worker() {
    const source = await (await fetch("/browser-test/worker.js")).text();
    const script = source.replace('"/bidiway/', `"${location.origin}/bidiway/`);
    const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
    try {
      return await new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(message));
        worker.postMessage(location.origin);
      });
    } finally {
      worker.terminate();
    }
  },

  /** Leaves a call open; the test closes the page then. */
  leaveOpen(tag) {
    lab.wait({}, { headers: { "demo-tag": tag } }).catch(() => {});
    return stats(tag, { running: 1 });
  },

  stats,
};

window.cases = cases;
window.channel = channel;
