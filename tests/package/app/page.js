// The calls, in a page and in a worker of it. Bundlers know `new Worker(new URL(…))` and make the worker's bundle.

import { makeCalls } from "./calls.js";

const url = new URL(location.href).searchParams.get("proxy") ?? undefined;

function inWorker() {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => resolve(`the worker failed: ${message}`);
    worker.postMessage(url);
  }).finally(() => worker.terminate());
}

window.results = Promise.all([makeCalls({ url }).catch(String), inWorker()]).then(([page, worker]) => ({ page, worker }));
