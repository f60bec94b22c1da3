// How this page's session is spelled, as the address says: in binary, or (`/?text`) as text that people can read in the
// browser's developer tools.

export const readable = new URLSearchParams(location.search).has("text");

/** What the proxy is told about the messages: JSON, which it translates, or protobuf, which it passes on. */
export const codec = readable ? "json" : "proto";

export const write = (type, message) =>
  readable ? new TextEncoder().encode(JSON.stringify(type.toJson(message))) : type.encode(message);

export const read = (type, bytes) => (readable ? type.fromJson(JSON.parse(new TextDecoder().decode(bytes))) : type.decode(bytes));

/** The same page, the other way, on the same tab. */
export function switchMode() {
  const other = new URL(location.href);
  if (readable) other.searchParams.delete("text");
  else other.searchParams.set("text", "");
  other.search = other.search.replace("text=", "text");
  location.assign(other);
}
