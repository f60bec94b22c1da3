/**
 * @template T
 * @typedef {object} Deferred
 * @property {Promise<T>} promise
 * @property {(value: T | PromiseLike<T>) => void} resolve
 * @property {(reason: unknown) => void} reject
 */

/**
 * A promise and its two ends. When nobody looks at a rejection, it stays silent: that somebody did not wait for a
 * message to be sent is no reason to bring a program down, and the call's status tells the failure anyway.
 * @template T
 * @returns {Deferred<T>}
 */
export function deferred() {
  /** @type {any} */
  const result = {};
  result.promise = new Promise((resolve, reject) => Object.assign(result, { resolve, reject }));
  result.promise.catch(() => {});
  return result;
}
