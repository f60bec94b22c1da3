// Node 20 has fetch, but neither WebSocket nor XMLHttpRequest: those of npm's `ws` and `xhr2`. improbable looks for fetch
// in `self`. Libraries look when they are loaded, so this comes before the bundle.

import { WebSocket } from "ws";
import XMLHttpRequest from "xhr2";

Object.assign(globalThis, { self: globalThis, WebSocket, XMLHttpRequest });
