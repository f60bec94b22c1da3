// Unmodified Connect-ES clients in Chromium, over the shim that the proxy serves, against the demo services: each case
// over plain HTTP/1.1, over TLS with an HTTP/1.1 upgrade, and over TLS with extended CONNECT (RFC 8441).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { CARRIERS, openPage, startBrowser, startProxy } from "./rig.js";

let ran = 0;

/** Resident memory of a process, in KiB. */
const memory = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]);

/** The cases. `run(name, …)` runs one in the page. */
const CASES = {
  "unary": async ({ run }) => assert.equal(await run("unary"), "Hello, Ada!"),

  "metadata goes both ways: repeated, binary, initial and trailing, and the deadline with it": async ({ run }) => {
    const { entries, timeoutMs, header, trailer } = await run("metadata");
    const seen = (name) => entries.filter((entry) => entry[0] === name);
    assert.equal(seen("x-one").map(([, text]) => text).join(", "), "1, 2");
    assert.deepEqual(seen("x-two-bin").map(([, , binary]) => binary), [[0, 255]]);
    assert.ok(timeoutMs > 5000 && timeoutMs <= 10_000, `${timeoutMs}`);
    assert.equal(header["demo-initial"], "one, two");
    assert.equal(header["demo-initial-bin"], "AAEC/f7/");
    assert.equal(header["demo-echo-me"], "here");
    assert.equal(trailer["demo-trailing"], "one, two");
    assert.equal(trailer["demo-trailing-bin"], "//79AgEA");
    assert.equal(trailer["demo-echo-me"], "here");
  },

  "server streaming": async ({ run }) => {
    const numbers = await run("serverStream");
    assert.equal(numbers.length, 500);
    assert.ok(numbers.every(([number, size], i) => number === i + 1 && size === 100));
  },

  "client streaming": async ({ run }) => assert.deepEqual(await run("clientStream"), [500, 50_000]),

  "bidirectional: two people talk in a room, and half-close leaves it": async ({ run, tag }) => {
    const { ada, bob } = await run("chat", tag);
    assert.deepEqual(ada.map((entry) => entry.join(" ").trim()), ["JOINED ada", "JOINED bob", "TEXT ada hello bob", "TEXT bob hello ada"]);
    assert.deepEqual(bob.map((entry) => entry.join(" ").trim()), ["JOINED bob", "TEXT ada hello bob", "TEXT bob hello ada", "LEFT ada"]);
  },

  "1,000 rounds of ping-pong, k + 1 only after answer k": async ({ run }) => assert.equal(await run("pingPong", 1000), 1000),

  "200 bidirectional streams at once": async ({ run }) => assert.equal(await run("manyStreams", 200), 200),

  "a stalled reader leaves others flowing, its service is held back, and the proxy's memory is flat": async ({ run, tag, proxy }) => {
    const kib = memory(proxy.pid);
    const { rounds, others, before, after } = await run("stalledReader", tag);
    assert.equal(rounds, 200);
    assert.equal(others, 500);
    assert.equal(after, before, "the service is still sending");
    assert.ok(after < 20_000, `${after} messages of 1000 bytes are on their way`);
    assert.ok(memory(proxy.pid) - kib < 50_000, `memory grew from ${kib} to ${memory(proxy.pid)} KiB`);
  },

  "aborting a unary call reaches the service within a second": async ({ run, tag }) => {
    const { name, cancelled } = await run("abortUnary", tag);
    assert.equal(name, "Canceled");
    assert.equal(cancelled, 1);
  },

  "aborting a bidirectional call reaches the service within a second": async ({ run, tag }) => {
    const { name, cancelled } = await run("abortBidi", tag);
    assert.equal(name, "Canceled");
    assert.equal(cancelled, 1);
  },

  "rich status: message, trailers and both details": async ({ run }) => {
    const error = await run("richStatus");
    assert.equal(error.name, "FailedPrecondition");
    assert.equal(error.message, "nö: 100 % 😀");
    assert.deepEqual(error.badRequest, [[{ field: "cheese", description: "none left" }]]);
    assert.deepEqual(error.errorInfo, [{ reason: "OUT_OF_CHEESE", domain: "demo.bidiway", metadata: { shop: "5" } }]);
    assert.equal(error.metadata["demo-trailing"], "failed");
    assert.equal(error.metadata["demo-echo-x"], "y");
  },

  "a unary call without a name is refused with the field's name": async ({ run }) => {
    const error = await run("invalidArgument");
    assert.equal(error.name, "InvalidArgument");
    assert.equal(error.badRequest[0][0].field, "name");
  },

  "a stream that fails gives its messages first": async ({ run }) => {
    const { numbers, name, message } = await run("failStream");
    assert.deepEqual(numbers, [1, 2, 3]);
    assert.equal(name, "ResourceExhausted");
    assert.equal(message, "enough");
  },

  "a deadline ends the call here and at the service": async ({ run, tag }) => {
    const { name, ms, cancelled } = await run("deadline", tag);
    assert.equal(name, "DeadlineExceeded");
    assert.ok(ms >= 190 && ms < 2000, `${ms} ms`);
    assert.equal(cancelled, 1);
  },

  "initial metadata and the first message of a silent stream arrive at once": async ({ run, tag }) => {
    assert.deepEqual(await run("waitStream", tag), { header: true, messages: 1, name: "Canceled" });
  },

  "a message of 3 MiB goes there and back": async ({ run }) => assert.equal(await run("large", 3 * 1024 * 1024), true),

  "an empty message is a message": async ({ run }) => assert.equal(await run("large", 0), true),

  "a message above the limit is refused, and the session goes on": async ({ run }) => {
    assert.equal(await run("tooLarge"), "ResourceExhausted");
    assert.equal(await run("unary"), "Hello, Ada!");
  },

  "an unknown method is UNIMPLEMENTED": async ({ run }) => assert.equal((await run("unknownMethod")).code, 12),

  "a closed tab reaches the service within a second": async ({ run, tag, context, origin }) => {
    const other = await openPage(context, origin, "session");
    await other.run("leaveOpen", tag);
    await other.page.close();
    await run("stats", tag, { running: 0, cancelled: 1 });
  },

  "a worker makes calls, too": async ({ run }) => {
    assert.deepEqual(await run("worker"), { messages: ["Hello, Ada!"], code: 0 });
  },
};

for (const { name: carrier, scheme, args, handshake } of CARRIERS) {
  describe(carrier, () => {
    let proxy, browser, tab;
    before(async () => {
      proxy = await startProxy();
      browser = await startBrowser(args);
      tab = await openPage(browser.context, proxy[scheme], "session");
    });
    after(async () => {
      await browser?.stop();
      await proxy?.stop();
    });

    for (const [name, run] of Object.entries(CASES)) {
      test(name, { timeout: 60_000 }, async () => {
        const tag = `${ran}-${name.replace(/[^a-z]/g, "").slice(0, 12)}`;
        await run({ ...tab, proxy, context: browser.context, origin: proxy[scheme], tag });
        ran++;
      });
    }

    test("all of it went over one socket, of the kind that was meant", async () => {
      assert.deepEqual(tab.sockets.map(({ status }) => status), [handshake]);
      ran++;
    });

    test("nothing was thrown that nobody caught", async () => {
      assert.deepEqual(await tab.uncaught(), []);
      ran++;
    });
  });
}

after(() => {
  const expected = CARRIERS.length * (Object.keys(CASES).length + 2);
  assert.equal(ran, expected, `${ran} of ${expected} cases ran and passed`);
});
