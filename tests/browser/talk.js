// Conversations with the demo's Lab in bytes, in pages and in Node alike.

const varint = (n) => (n > 127 ? [(n & 127) | 128, ...varint(n >>> 7)] : [n]);
/** A Payload with a number. */
const payload = (n) => Uint8Array.from([0x08, ...varint(n)]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A bidirectional call with numbered messages, which come back. Fails as soon as one is missing, or comes twice. */
export function carry(channel) {
  const call = channel.open({ method: "/demo.v1.Lab/Bidi" });
  let sent = 0;
  let read = 0;
  let ended = false;
  const writing = (async () => {
    while (!ended) {
      await call.send(payload(++sent));
      if (sent - read > 200 || sent % 20 === 0) await pause(1);
    }
    call.halfClose();
  })();
  const reading = (async () => {
    for await (const message of call) {
      const wanted = payload(++read);
      if (`${wanted}` !== `${message}`) throw new Error(`message ${read} should be ${wanted}, and is ${message}`);
    }
  })();
  for (const half of [writing, reading]) half.catch(() => {});
  return {
    count: () => read,
    async end() {
      ended = true;
      await Promise.all([writing, reading]);
      return { sent, read, code: (await call.status).code };
    },
  };
}

/** One call of each kind; how many messages came back, and the codes. */
export async function kinds(channel) {
  const run = async (method, messages) => {
    const call = channel.open({ method: `/demo.v1.Lab/${method}`, timeoutMs: 20_000 });
    for (const message of messages) call.send(message).catch(() => {});
    call.halfClose();
    let count = 0;
    for await (const _ of call) count++;
    return [method, count, (await call.status).code];
  };
  return Promise.all([
    run("Unary", [payload(1)]),
    // A StreamRequest: its first field is `count`.
    run("ServerStream", [payload(5)]),
    run("ClientStream", [payload(1), payload(2), payload(3)]),
    run("Bidi", [payload(1), payload(2), payload(3)]),
  ]);
}

export const KINDS = [["Unary", 1, 0], ["ServerStream", 5, 0], ["ClientStream", 1, 0], ["Bidi", 3, 0]];
