import { createChannel } from "../../src/index.js";
import { createTransport } from "../../src/connect.js";
import { start } from "./notes.js";

globalThis.notes = start(createTransport(createChannel()));
