// Two small primitives: promises that may fail unseen, and a timer that knows what no timer can do.

/**
 * Keeps a rejection silent when nobody looks: that somebody did not wait for a message to be sent is no reason to bring
 * a program down, and the call's status tells the failure anyway.
 * @template T
 * @param {Promise<T>} promise
 */
export function quiet(promise) {
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
  return (/** @type {any} */ delayMs, run) => {
    clearTimeout(id);
    if (delayMs > 0 && delayMs < 2 ** 31) id = setTimeout(/** @type {() => void} */ (run), delayMs);
  };
}
