// Clients from descriptors, over a scripted proxy: what needs a real one is tested in tests/browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { create, createRegistry, fromBinary, getExtension, getOption, setExtension, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, anyPack } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import { BidiwayError, Code } from "../src/index.js";
import { createDecoder, reflect } from "../src/reflect.js";
import { connected, fakeProxy, pair, settle, watchRejections } from "./fake.js";
import { Greeter } from "./.gen/connect.js";

const set = (name) => readFileSync(new URL(`.gen/${name}.binpb`, import.meta.url));
const listing = (...names) => ({ services: names.map((name) => (typeof name === "string" ? { name, methods: [] } : name)) });

/** A proxy's schema endpoint: what it answers, and what it was asked. */
function schemas(pages) {
  const asked = [];
  return {
    asked,
    async fetch(url) {
      const path = url.replace("https://edge.test/bidiway/schema", "");
      asked.push(path);
      const page = pages[path];
      if (page instanceof Error) throw page;
      if (page === undefined) return new Response("This is Bidiway\n", { status: 404 });
      if (Array.isArray(page)) return new Response(page[1], { status: page[0] });
      return new Response(page instanceof Uint8Array ? page : JSON.stringify(page));
    },
  };
}

const URL_OPTION = { url: "https://edge.test/bidiway/schema" };
const ALL = {
  "": { upstreams: { features: listing("test.v1.Features"), demo: listing("demo.v1.Greeter", "demo.v1.Chat") } },
  "/features.binpb": set("features"),
  "/demo.binpb": set("demo"),
};

async function reflected(pages = ALL, options = {}) {
  const { channel, peer } = await connected();
  const { asked, fetch } = schemas(pages);
  return { peer, asked, reflection: await reflect(channel, { ...URL_OPTION, fetch, ...options }) };
}

const is = (code, pattern) => (error) => {
  assert.ok(error instanceof BidiwayError, error);
  assert.equal(error.code, code, error.message);
  assert.match(error.message, pattern);
  return true;
};

test("all services that the proxy lists are there, with one request for each upstream, and no others", async () => {
  const { reflection, asked } = await reflected();
  assert.deepEqual(asked, ["", "/features.binpb", "/demo.binpb"]);
  assert.deepEqual(reflection.services().map(({ typeName }) => typeName), ["test.v1.Features", "demo.v1.Greeter", "demo.v1.Chat"]);
  assert.deepEqual(reflection.service("test.v1.Features").methods.map(({ name, methodKind }) => [name, methodKind]), [["One", "unary"], ["Talk", "bidi_streaming"]]);
  assert.throws(() => reflection.service("test.v1.Unserved"), is(Code.UNIMPLEMENTED, /no service test\.v1\.Unserved; there are test\.v1\.Features, /));
});

test("only those services are loaded that are asked for", async () => {
  const { reflection, asked } = await reflected({ "?service=test.v1.Features": set("features") }, { services: ["test.v1.Features"] });
  assert.deepEqual(asked, ["?service=test.v1.Features"]);
  assert.deepEqual(reflection.services().map(({ typeName }) => typeName), ["test.v1.Features"]);
});

test("a client calls: unary and bidirectional, with messages in whole", async (t) => {
  watchRejections(t);
  const { peer, reflection } = await reflected();
  const client = reflection.client("test.v1.Features");
  const { input: Request, output: Old } = reflection.service("test.v1.Features").method.one;
  const answer = client.one({ name: "x", wide: 5n, more: { a: { explicit: 0 } } });
  await settle();
  assert.equal(peer.take("open")[0].open.method, "/test.v1.Features/One");
  const sent = fromBinary(Request, new Uint8Array(peer.take("data")[0].data));
  assert.equal(sent.name, "x");
  assert.equal(sent.wide, 5n);
  assert.equal(sent.more.a.explicit, 0);
  peer.data(1, toBinary(Old, create(Old, { name: "answer" })));
  peer.trailers(1);
  const reply = await answer;
  assert.equal(reply.name, "answer");
  assert.equal(reply.size, 7, "a default of proto2");

  const heard = [];
  const talk = (async () => {
    for await (const { name } of client.talk((async function* () {
      yield { name: "one" };
    })())) heard.push(name);
  })();
  await settle();
  peer.data(2, toBinary(Request, create(Request, { name: "ONE" })));
  peer.trailers(2);
  await talk;
  assert.deepEqual(heard, ["ONE"]);
});

test("a failed call of a client is a ConnectError whose details the registry reads", async (t) => {
  watchRejections(t);
  const { peer, reflection } = await reflected();
  const answer = reflection.client("demo.v1.Greeter").hello({});
  await settle();
  const HelloReply = reflection.registry.getMessage("demo.v1.HelloReply");
  const any = anyPack(HelloReply, create(HelloReply, { text: "why" }));
  const url = new TextEncoder().encode(any.typeUrl);
  const packed = [0x0a, url.length, ...url, 0x12, any.value.length, ...any.value];
  peer.trailers(1, 3, "no name", { details: new Uint8Array([0x08, 3, 0x1a, packed.length, ...packed]) });
  await assert.rejects(answer, (error) => error instanceof ConnectError && error.findDetails(reflection.registry)[0].text === "why");
});

test("custom options, extensions of proto2, groups and editions are what protobuf-es makes of them", async () => {
  const { reflection } = await reflected();
  const { registry } = reflection;
  const { input: Request, output: Old, ...one } = reflection.service("test.v1.Features").method.one;
  assert.equal(getOption(one, registry.getExtension("test.v1.audience")), "people");
  assert.equal(Request.field.delimited.delimitedEncoding, true);
  assert.notEqual(Request.field.name.presence, Request.field.explicit.presence);
  const colour = registry.getExtension("test.v1.colour");
  const old = create(Old, { name: "x", part: { text: "y" } });
  setExtension(old, colour, "red");
  const again = fromBinary(Old, toBinary(Old, old));
  assert.equal(getExtension(again, colour), "red");
  assert.equal(again.part.text, "y");
});

test("messages are decoded as JSON, whichever way they go, with Any, extensions and the well-known types in it", async () => {
  const { reflection } = await reflected();
  const { input: Request, output: Old } = reflection.service("test.v1.Features").method.one;
  const old = create(Old, { name: "x" });
  setExtension(old, reflection.registry.getExtension("test.v1.colour"), "red");
  const request = toBinary(Request, create(Request, { any: anyPack(Old, old), at: { seconds: 0n }, wide: 2n ** 60n }));
  assert.deepEqual(reflection.decode("/test.v1.Features/One", "out", request), {
    any: { "@type": "type.googleapis.com/test.v1.Old", name: "x", "[test.v1.colour]": "red" },
    at: "1970-01-01T00:00:00Z",
    wide: "1152921504606846976",
  });
  assert.deepEqual(reflection.decode("/test.v1.Features/One", "in", toBinary(Old, old)), { name: "x", "[test.v1.colour]": "red" });
  for (const method of ["/test.v1.Features/None", "/test.v1.None/One"]) assert.equal(reflection.decode(method, "in", request), undefined);
});

test("what the schema says not to show is not shown, wherever in the message it is", async () => {
  const { reflection } = await reflected();
  const Request = reflection.registry.getMessage("test.v1.Request");
  const secret = create(Request, { secret: "x" });
  const request = create(Request, { name: "n", secret: "x", delimited: secret, any: anyPack(Request, secret), more: { a: secret }, list: [secret, secret] });
  const hidden = { secret: "•••" };
  assert.deepEqual(reflection.decode("/test.v1.Features/Talk", "in", toBinary(Request, request)), {
    name: "n",
    ...hidden,
    delimited: hidden,
    any: { "@type": "type.googleapis.com/test.v1.Request", ...hidden },
    more: { a: hidden },
    list: [hidden, hidden],
  });
});

test("a decoder takes the types of generated code, too", () => {
  const decode = createDecoder(createRegistry(Greeter));
  assert.deepEqual(decode("/demo.v1.Greeter/Hello", "out", new Uint8Array([0x0a, 1, 0x41])), { name: "A" });
});

test("JSON calls go over the same channel", async (t) => {
  watchRejections(t);
  const { peer, reflection } = await reflected();
  const answer = reflection.json.call("demo.v1.Greeter/Hello", { name: "Ada" });
  await settle();
  assert.equal(peer.take("open")[0].open.codec, 1);
  peer.data(1, new TextEncoder().encode('{"text":"x"}'));
  peer.trailers(1);
  assert.deepEqual(await answer, { text: "x" });
});

test("a URL is enough: it makes the channel, and knows the endpoint", async (t) => {
  const proxy = fakeProxy();
  const { fetch, asked } = schemas(ALL);
  const before = globalThis.WebSocket;
  globalThis.WebSocket = proxy.WebSocket;
  t.after(() => (globalThis.WebSocket = before));
  for (const url of ["https://edge.test", new URL("wss://edge.test/bidiway/session")]) {
    const { channel } = await reflect(url, { fetch });
    channel.connect().catch(() => {});
    await settle();
    assert.equal(proxy.last.url, "wss://edge.test/bidiway/session");
    await channel.close();
  }
  assert.equal(asked.length, 6);
});

test("outside of a page, a channel needs the endpoint's URL", async () => {
  await assert.rejects(reflect(pair().channel), /outside of a page, `url` has to say/);
});

test("a service or an upstream that is broken keeps nobody from the others, and its error is told where it is missed", async () => {
  const { reflection, asked } = await reflected({
    "": { upstreams: { demo: listing("demo.v1.Greeter", { name: "demo.v1.Chat", methods: [], error: "chat.proto is missing" }), dead: { error: "connection refused" } } },
    "?service=demo.v1.Greeter": set("demo"),
  });
  assert.deepEqual(asked, ["", "?service=demo.v1.Greeter"]);
  assert.deepEqual(reflection.services().map(({ typeName }) => typeName), ["demo.v1.Greeter"]);
  assert.throws(() => reflection.client("demo.v1.Chat"), is(Code.UNIMPLEMENTED, /no service demo\.v1\.Chat; there are demo\.v1\.Greeter; demo\.v1\.Chat: chat\.proto is missing; dead: connection refused/));
});

test("of two upstreams with the same service the first counts", async () => {
  const other = fromBinary(FileDescriptorSetSchema, set("features"));
  for (const { service: services } of other.file) for (const service of services) service.method.pop();
  const { reflection } = await reflected({
    "": { upstreams: { a: listing("test.v1.Features"), b: listing("test.v1.Features") } },
    "/a.binpb": set("features"),
    "/b.binpb": toBinary(FileDescriptorSetSchema, other),
  });
  assert.deepEqual(reflection.services().map(({ methods }) => methods.length), [2]);
});

test("what goes wrong at the endpoint is a BidiwayError that says what to do", async () => {
  await assert.rejects(reflected({}), is(Code.UNIMPLEMENTED, /404: the proxy serves no schemas without `schema_endpoint: true`/));
  await assert.rejects(reflected({ "?service=x.Y": [404, 'no route has a service "x.Y"\n'] }, { services: ["x.Y"] }), is(Code.UNIMPLEMENTED, /404: no route has a service "x.Y"$/));
  await assert.rejects(reflected({ "": [503, "upstream down\n"] }), is(Code.UNAVAILABLE, /503: upstream down$/));
  const cause = new TypeError("fetch failed");
  await assert.rejects(reflected({ "": cause }), (error) => is(Code.UNAVAILABLE, /no answer from https:\/\/edge\.test\/bidiway\/schema/)(error) && error.cause === cause);
});
