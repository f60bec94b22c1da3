// What the application does, whatever carries its calls.

import { createClient } from "@connectrpc/connect";
import { Notes } from "./notes_pb.js";

export function start(transport) {
  const notes = createClient(Notes, transport);
  return {
    get: async (id) => show(await notes.get({ id })),
    list: async (id) => {
      for await (const note of notes.list({ id })) show(note);
    },
    import: async (input) => show(await notes.import(input)),
    edit: async (input) => {
      for await (const note of notes.edit(input)) show(note);
    },
  };
}

const show = ({ id, text }) => document.body.append(id, text);
