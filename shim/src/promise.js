// Two small primitives: promises that may fail unseen, and a timer that knows what no timer can do.

/**
 * A promise whose rejection stays silent when nobody looks: that somebody did not wait for a message to be sent is no
 * reason to bring a program down, and the call's status tells the failure anyway.
 * @template T
 * @param {(resolve: (value: T) => void, reject: (reason: unknown) => void) => void} run
 * @returns {Promise<T>}
 */
export function quiet(run) {
  const promise = new Promise(run);
  promise.catch(() => {});
  return promise;
}

/**
 * One timer.
 * @returns {(delayMs?: number, run?: () => void) => void} sets it anew; without a delay, or with one that is longer than
 *   timers can be, it is only stopped
 */
export function timer() {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let id;
  return (delayMs = 0, run) => {
    clearTimeout(id);
    if (run && delayMs > 0 && delayMs < 2 ** 31) id = setTimeout(run, delayMs);
  };
}
