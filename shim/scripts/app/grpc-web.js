import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { start } from "./notes.js";

globalThis.notes = start(createGrpcWebTransport({ baseUrl: location.origin }));
