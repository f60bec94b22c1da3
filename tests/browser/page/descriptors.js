// What the tests run in the page: calls without generated code, over the shim that the proxy serves.

import { logCalls } from "/bidiway/debug.js";
import { createChannel } from "/bidiway/index.js";
import { createJsonClient } from "/bidiway/json.js";
import { reflect } from "/bidiway/reflect.js";
import { createCases } from "../descriptors.js";

window.cases = createCases({ createChannel, createJsonClient, reflect, logCalls }, location.origin);
