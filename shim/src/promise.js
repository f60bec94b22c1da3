// Small primitives: promises that may fail unseen, a timer that knows what no timer can do, and how long to wait.

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
 * The delay before the next attempt: full jitter.
 * @param {number} attempts that have failed
 * @param {number} baseMs
 * @param {number} maxMs
 */
export const backoff = (attempts, baseMs, maxMs) => Math.random() * Math.min(maxMs, baseMs * 2 ** (attempts && attempts - 1));

/**
 * One timer.
 * @returns {(delayMs?: number, run?: () => void) => any} sets it anew; without a delay, or with one that is longer than
 *   timers can be, it is only stopped. Gives what the platform calls a timer
 */
export function timer() {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let id;
  return (/** @type {any} */ delayMs, run) => (
    clearTimeout(id), delayMs > 0 && delayMs < 2 ** 31 && (id = setTimeout(/** @type {() => void} */ (run), delayMs))
  );
}
