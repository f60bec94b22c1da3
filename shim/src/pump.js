// Sends what an application produces as an async iterable, for adapters.

/** @typedef {import("./call.js").Call} Call */

/**
 * Sends what `input` yields, one message after the other as flow control admits them, until either side is done: then
 * the call is half-closed, or `input` is let go, so that a generator runs its `finally`. An error of the input's
 * cancels the call.
 * @template T
 * @param {AsyncIterable<T>} input
 * @param {Call} call
 * @param {(message: T) => Promise<void>} send
 * @param {(error: unknown) => unknown} [toReason] what to cancel the call with
 */
export async function pump(input, call, send, toReason = (error) => error) {
  let over = false;
  try {
    const messages = input[Symbol.asyncIterator]();
    call.status.then(() => {
      over = true;
      // What a generator throws in its `finally` is nobody's business any more.
      messages.return?.().catch(() => {});
    });
    for (;;) {
      const { done, value } = await messages.next();
      if (over) return;
      if (done) return call.halfClose();
      await send(value);
    }
  } catch (error) {
    call.cancel(toReason(error));
  }
}
