// The shim in Node: its own WebSocket where there is one, npm's `ws` where not, by TLS too.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { WebSocket as Ws } from "ws";
import { createChannel } from "../../shim/src/index.js";
import { startProxy } from "./rig.js";

let proxy;
before(async () => (proxy = await startProxy()));
after(() => proxy?.stop());

/** npm's `ws`, which takes the demo's own certificate. */
class Insecure extends Ws {
  constructor(url, protocols) {
    super(url, protocols, { rejectUnauthorized: false });
  }
}

const SOCKETS = [["ws", Ws, "http"], ["ws over TLS", Insecure, "https"]];
if (globalThis.WebSocket) SOCKETS.push(["Node's own", undefined, "http"]);

for (const [name, WebSocket, scheme] of SOCKETS) {
  test(`${name}: a call and a conversation`, { timeout: 20_000 }, async (t) => {
    const channel = createChannel({ url: `${proxy[scheme]}/bidiway/session`, WebSocket });
    t.after(() => channel.close());
    const hello = channel.open({ method: "/demo.v1.Greeter/Hello" });
    await hello.send(new Uint8Array([0x0a, 3, 0x41, 0x64, 0x61]));
    hello.halfClose();
    for await (const message of hello) assert.equal(new TextDecoder().decode(message.subarray(2)), "Hello, Ada!");
    assert.equal((await hello.status).code, 0);

    const talk = channel.open({ method: "/demo.v1.Lab/Bidi" });
    for (let i = 1; i <= 100; i++) {
      await talk.send(new Uint8Array([0x08, i]));
      assert.equal((await talk.next()).value[1], i);
    }
    talk.halfClose();
    assert.equal((await talk.next()).done, true);
    await channel.close();
    assert.equal(channel.state, "closed");
  });
}

test("a proxy that stops takes nobody by surprise: calls end as UNAVAILABLE", { timeout: 30_000 }, async (t) => {
  const other = await startProxy();
  t.after(other.stop);
  const channel = createChannel({ url: `${other.http}/bidiway/session`, WebSocket: globalThis.WebSocket ?? Ws, connectTimeoutMs: 2000 });
  t.after(() => channel.close());
  const call = channel.open({ method: "/demo.v1.Lab/WaitStream" });
  call.send(new Uint8Array());
  call.halfClose();
  assert.equal((await call.next()).done, false);
  process.kill(other.pid, "SIGKILL");
  const status = await call.status;
  assert.equal(status.code, 14);
  assert.equal(status.maybeProcessed, true);
  const late = channel.open({ method: "/demo.v1.Lab/WaitStream" });
  assert.equal((await late.status).code, 14);
  assert.equal((await late.status).maybeProcessed, false);
});
