// JSON messages for the Connect transport, as an import of its own.

import { createChannel } from "bidiway";
import { createTransport } from "bidiway/connect";
import { createJsonCodec } from "bidiway/connect-json";

export const transport = createTransport(createChannel(), { codec: createJsonCodec({ ignoreUnknownFields: false }) });
