import { createConnectTransport } from "@connectrpc/connect-web";
import { start } from "./notes.js";

// `import` and `edit` compile here, and fail when called: fetch streams no request bodies.
globalThis.notes = start(createConnectTransport({ baseUrl: location.origin, useBinaryFormat: true }));
