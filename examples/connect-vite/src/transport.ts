import { createChannel } from "bidiway";
import { createTransport } from "bidiway/connect";

export const channel = createChannel();

// This is the line that changes. It was: createConnectTransport({ baseUrl: "https://api.example.com" })
export const transport = createTransport(channel);
