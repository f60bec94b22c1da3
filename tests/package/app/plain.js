// No npm, no bundler: the package comes from the proxy. A page imports this; as a worker's script it answers messages.

/** A ping-pong on Lab/Bidi, in bytes: field 1 of the message is a number below 128. */
export async function converse(url) {
  const { createChannel } = await import(new URL("/bidiway/index.js", url));
  const channel = createChannel({ url });
  const call = channel.open({ method: "/demo.v1.Lab/Bidi" });
  const answers = [];
  for (let i = 1; i <= 20; i++) {
    await call.send(new Uint8Array([0x08, i]));
    answers.push((await call.next()).value[1]);
  }
  call.halfClose();
  const { code } = await call.status;
  await channel.close();
  return { answers: answers.length, last: answers.at(-1), code };
}

if (!globalThis.document) onmessage = async ({ data: url }) => postMessage(await converse(url).catch(String));
