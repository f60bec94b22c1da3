// Calls without generated code, in JSON and by reflection: the cases, for a page and for Node.

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * @param {{ createChannel: Function, createJsonClient: Function, reflect: Function, logCalls: Function }} shim
 * @param {string} origin of the proxy
 * @param {object} options of channels
 */
export function createCases({ createChannel, createJsonClient, reflect, logCalls }, origin, options) {
  const channel = createChannel({ url: `${origin}/bidiway/session`, ...options });
  const schemas = { url: `${origin}/bidiway/schema` };
  const json = createJsonClient(channel);
  let reflection;
  const reflected = () => (reflection ??= reflect(channel, schemas));
  const client = async (name) => (await reflected()).client(name);

  /** What a failing call throws, in a shape that leaves the page. */
  const failure = async (run) => {
    try {
      await run();
    } catch ({ name, code, message, origin, details }) {
      return { name, code, message, origin, details: details?.length };
    }
    throw new Error("the call did not fail");
  };

  /** Waits until the service's count of the calls with this tag is as wanted. */
  const stats = async (tag, wanted) => {
    const end = performance.now() + 1000;
    for (;;) {
      const seen = await (await client("demo.v1.Lab")).stats({ tag });
      if (Object.entries(wanted).every(([key, value]) => Number(seen[key]) === value)) return true;
      if (performance.now() > end) throw new Error(`not ${JSON.stringify(wanted)} within a second`);
      await sleep(10);
    }
  };

  async function* upload(count) {
    for (let i = 1; i <= count; i++) yield { number: BigInt(i), data: new Uint8Array(100) };
  }

  return {
    jsonUnary: () => json.call("demo.v1.Greeter/Hello", { name: "Ada" }),

    async jsonMetadata() {
      const seen = {};
      const { entries, timeoutMs } = await json.call("demo.v1.Lab/Metadata", {}, {
        metadata: [["x-one", "1"], ["x-one", "2"], ["x-two-bin", new Uint8Array([0, 255])]],
        timeoutMs: 10_000,
        onHeaders: (headers) => (seen.headers = headers.map(([name, value]) => [name, typeof value === "string" ? value : [...value]])),
        onTrailers: (trailers) => (seen.trailers = trailers.map(([name, value]) => [name, typeof value === "string" ? value : [...value]])),
      });
      return { entries, timeoutMs, ...seen };
    },

    async jsonServerStream() {
      const seen = [];
      for await (const { number, data } of json.stream("demo.v1.Lab/ServerStream", { count: 500, size: 3 })) seen.push([number, data]);
      return seen;
    },

    jsonClientStream: () => json.call("demo.v1.Lab/ClientStream", upload(500)),

    /** k + 1 is sent only after answer k. */
    async jsonPingPong(rounds) {
      const call = json.duplex("demo.v1.Lab/Bidi");
      await call.send({ number: 1, text: "nö 😀" });
      let k = 1;
      for await (const { number, text } of call) {
        if (Number(number) !== k || text !== "nö 😀") throw new Error(`answer ${number} ${text} instead of ${k}`);
        if (k === rounds) call.halfClose();
        else await call.send({ number: ++k, text });
      }
      const { code } = await call.status;
      return { k, code };
    },

    async jsonChat(room) {
      const heard = [];
      const ada = json.duplex("demo.v1.Chat/Talk"), bob = json.duplex("demo.v1.Chat/Talk");
      const next = async () => {
        const { kind, user, text } = (await ada.next()).value;
        heard.push([kind ?? "TEXT", user, text ?? ""]);
      };
      await ada.send({ room, user: "ada" });
      await next();
      await bob.send({ room, user: "bob", text: "hello" });
      await next();
      await next();
      bob.halfClose();
      await next();
      ada.halfClose();
      return { heard, end: await ada.next(), code: (await ada.status).code };
    },

    /** A message as large as most get, in many pieces, both ways. */
    async jsonLarge(size) {
      const text = "0123456789".repeat(size / 10);
      return (await json.call("demo.v1.Lab/Unary", { text })).text === text;
    },

    async jsonFailStream() {
      const seen = [];
      const error = await failure(async () => {
        for await (const { number } of json.stream("demo.v1.Lab/FailStream", { code: 8, message: "enough", after: 3 })) seen.push(number);
      });
      return { seen, error };
    },

    jsonRichStatus: () => failure(() => json.call("demo.v1.Lab/Fail", { code: 9, message: "nö: 100 % 😀", reason: "OUT_OF_CHEESE", info: { shop: "5" } })),

    jsonMistake: (method, request) => failure(() => json.call(method, request)),

    /** The second message of a stream does not fit the schema: the service has seen the first, and that the call is over. */
    async jsonMistakeInStream(tag) {
      const call = json.duplex("demo.v1.Lab/Bidi", { metadata: { "demo-tag": tag } });
      await call.send({ number: 1 });
      const first = (await call.next()).value;
      await call.send({ number: "one" });
      const error = await failure(() => call.next());
      await stats(tag, { running: 0, received: 1 });
      return { first, error };
    },

    /** Leaving the loop reaches the service. */
    async jsonLeave(tag) {
      for await (const _ of json.stream("demo.v1.Lab/WaitStream", {}, { metadata: { "demo-tag": tag } })) break;
      return stats(tag, { running: 0, cancelled: 1 });
    },

    /** A reader who stops holds the service back. */
    async jsonStalled(tag) {
      const call = json.stream("demo.v1.Lab/ServerStream", { count: 100_000, size: 1000 }, { metadata: { "demo-tag": tag } });
      await call.next();
      await json.call("demo.v1.Lab/ClientStream", upload(200));
      const sent = async () => Number((await (await client("demo.v1.Lab")).stats({ tag })).sent);
      let before = -1;
      for (let now; (now = await sent()) !== before; before = now) await sleep(200);
      for (let i = 0; i < 2000; i++) await call.next();
      const after = await sent();
      call.cancel();
      return { before, after };
    },

    services: async () => (await reflected()).services().map(({ typeName, methods }) => [typeName, methods.map(({ name, methodKind }) => `${name}: ${methodKind}`)]),

    reflectUnary: async () => (await (await client("demo.v1.Greeter")).hello({ name: "Ada" })).text,

    async reflectServerStream() {
      const seen = [];
      for await (const { number, data } of (await client("demo.v1.Lab")).serverStream({ count: 500, size: 3 })) seen.push([Number(number), data.length]);
      return seen;
    },

    async reflectClientStream() {
      const { messages, bytes } = await (await client("demo.v1.Lab")).clientStream(upload(500));
      return [Number(messages), Number(bytes)];
    },

    async reflectBidi() {
      const seen = [];
      let wake = () => {};
      const input = async function* () {
        yield { number: 1n };
        await new Promise((resolve) => (wake = resolve));
        yield { number: 2n };
      };
      for await (const { number } of (await client("demo.v1.Lab")).bidi(input())) {
        seen.push(Number(number));
        wake();
      }
      return seen;
    },

    reflectFailure: () => failure(async () => (await client("demo.v1.Greeter")).hello({})),

    reflectUnknown: () => failure(async () => (await reflect(channel, { ...schemas, services: ["demo.v1.Nothing"] })).services()),

    async reflectFromUrl() {
      const other = await reflect(origin, { services: ["demo.v1.Greeter"] });
      const names = other.services().map(({ typeName }) => typeName);
      await other.channel.close();
      return names;
    },

    /** Calls on the console: of the real one, which others look at, or of one that is handed in. */
    async logged(console) {
      const { decode } = await reflected();
      const logging = logCalls(channel, { decode, console });
      const { client } = await reflect(logging, { ...schemas, services: ["demo.v1.Greeter", "demo.v1.Lab"] });
      await client("demo.v1.Greeter").hello({ name: "Ada" }, { headers: { authorization: "Bearer abc" } });
      for await (const _ of client("demo.v1.Lab").serverStream({ count: 3 }));
    },

    close: () => channel.close(),
  };
}
