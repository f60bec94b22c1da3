// Protobuf messages of the demo services, by hand, so that this page needs no build step. In an application this
// file is what a generator makes from the .proto file: protobuf-es, protobuf-ts, ts-proto or protoc-gen-js.

const utf8 = new TextEncoder();
const text = new TextDecoder();

// A field is { no, type } with the type "uint" (every varint of at most 53 bits), "string", "bytes", "map" (of
// strings), an enum (its numbers by name), or another message; `repeated` makes it a list. Absent fields decode to their
// proto3 default.
const field = (no, type, repeated = false) => ({ no, type, repeated });

/** The name of a field in JSON. */
const camelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

/** A message type, with its messages as bytes and as proto3 JSON. */
function define(fields) {
  const byNumber = new Map(Object.entries(fields).map(([name, f]) => [f.no, { name, ...f }]));

  function encode(message) {
    const out = [];
    for (const [name, { no, type, repeated }] of Object.entries(fields)) {
      let values = message[name];
      if (type === "map") values = Object.entries(values ?? {});
      else if (!repeated) values = isDefault(values) ? [] : [values];
      for (const value of values ?? []) {
        if (isVarint(type)) {
          varint(out, no * 8);
          varint(out, value);
        } else {
          const bytes = toBytes(type, value);
          varint(out, no * 8 + 2);
          varint(out, bytes.length);
          for (const byte of bytes) out.push(byte);
        }
      }
    }
    return Uint8Array.from(out);
  }

  function decode(bytes) {
    const message = {};
    for (const [name, { type, repeated }] of Object.entries(fields)) message[name] = defaultOf(type, repeated);
    const at = { i: 0 };
    while (at.i < bytes.length) {
      const tag = readVarint(bytes, at);
      const known = byNumber.get(Math.floor(tag / 8));
      let value = readField(bytes, at, tag % 8);
      if (!known) continue;
      const { name, type, repeated } = known;
      if (type === "map") {
        const entry = Entry.decode(value);
        message[name][entry.key] = entry.value;
        continue;
      }
      if (type === "string") value = text.decode(value);
      else if (isMessage(type)) value = type.decode(value);
      if (repeated) message[name].push(value);
      else message[name] = value;
    }
    return message;
  }

  function toJson(message) {
    const json = {};
    for (const [name, { type, repeated }] of Object.entries(fields)) {
      const value = message[name];
      if (isDefault(value)) continue;
      const convert = (one) => (type === "bytes" ? base64(one) : isMessage(type) ? type.toJson(one) : one);
      json[camelCase(name)] = repeated ? value.map(convert) : convert(value);
    }
    return json;
  }

  function fromJson(json) {
    const message = {};
    for (const [name, { type, repeated }] of Object.entries(fields)) {
      const value = json[camelCase(name)];
      // 64 bits come as text, enums by name.
      const convert = (one) =>
        type === "uint" ? Number(one)
        : type === "bytes" ? Uint8Array.from(atob(one), (char) => char.charCodeAt(0))
        : isMessage(type) ? type.fromJson(one)
        : isVarint(type) ? type[one] ?? one
        : one;
      message[name] = value === undefined ? defaultOf(type, repeated) : repeated ? value.map(convert) : convert(value);
    }
    return message;
  }

  return { encode, decode, toJson, fromJson };
}

const isMessage = (type) => typeof type.decode === "function";
const isVarint = (type) => type === "uint" || (typeof type === "object" && !isMessage(type));

/** As long as a stack allows at once. */
function base64(bytes) {
  let binary = "";
  for (let i = 0; i < bytes.length; i += 8192) binary += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(binary);
}

const isDefault = (value) => value === undefined || value === 0 || value === "" || value?.length === 0;

function defaultOf(type, repeated) {
  if (repeated) return [];
  if (isVarint(type)) return 0;
  if (type === "string") return "";
  if (type === "bytes") return new Uint8Array();
  return type === "map" ? {} : undefined;
}

function toBytes(type, value) {
  if (type === "string") return utf8.encode(value);
  if (type === "bytes") return value;
  if (type === "map") return Entry.encode({ key: value[0], value: value[1] });
  return type.encode(value);
}

function varint(out, value) {
  while (value > 127) {
    out.push((value % 128) | 128);
    value = Math.floor(value / 128);
  }
  out.push(value);
}

function readVarint(bytes, at) {
  let value = 0;
  for (let scale = 1; ; scale *= 128) {
    const byte = bytes[at.i++];
    if (byte === undefined || scale > 2 ** 63) throw new Error("cut or overlong varint");
    value += (byte & 127) * scale;
    if (byte < 128) return value;
  }
}

function readField(bytes, at, wireType) {
  if (wireType === 0) return readVarint(bytes, at);
  const length = wireType === 2 ? readVarint(bytes, at) : wireType === 1 ? 8 : wireType === 5 ? 4 : NaN;
  const end = at.i + length;
  if (!(end <= bytes.length)) throw new Error("cut message");
  const value = bytes.subarray(at.i, end);
  at.i = end;
  return value;
}

const Entry = define({ key: field(1, "string"), value: field(2, "string") });

// demo.v1

export const Empty = define({});
export const HelloRequest = define({ name: field(1, "string") });
export const HelloReply = define({ text: field(1, "string") });
export const ChatKind = { TEXT: 0, JOINED: 1, LEFT: 2, NOTICE: 3 };
export const ChatMessage = define({
  room: field(1, "string"),
  user: field(2, "string"),
  text: field(3, "string"),
  kind: field(4, ChatKind),
  time_ms: field(5, "uint"),
  members: field(6, "uint"),
});
export const Payload = define({
  number: field(1, "uint"),
  text: field(2, "string"),
  data: field(3, "bytes"),
  time_ms: field(4, "uint"),
});
export const StreamRequest = define({
  count: field(1, "uint"),
  size: field(2, "uint"),
  interval_ms: field(3, "uint"),
});
export const Summary = define({ messages: field(1, "uint"), bytes: field(2, "uint") });
export const FieldViolation = define({ field: field(1, "string"), description: field(2, "string") });
export const FailRequest = define({
  code: field(1, "uint"),
  message: field(2, "string"),
  reason: field(3, "string"),
  info: field(4, "map"),
  violations: field(5, FieldViolation, true),
  after: field(6, "uint"),
});
const MetadataEntry = define({ name: field(1, "string"), text: field(2, "string"), binary: field(3, "bytes") });
export const MetadataReply = define({
  entries: field(1, MetadataEntry, true),
  timeout_ms: field(2, "uint"),
  authority: field(3, "string"),
});
export const StatsRequest = define({ tag: field(1, "string") });
export const StatsReply = define({
  running: field(1, "uint"),
  completed: field(2, "uint"),
  cancelled: field(3, "uint"),
  received: field(4, "uint"),
  sent: field(5, "uint"),
});

// google.rpc: what the bytes of `grpc-status-details-bin` say.

const Any = define({ type_url: field(1, "string"), value: field(2, "bytes") });
const RpcStatus = define({ code: field(1, "uint"), message: field(2, "string"), details: field(3, Any, true) });
const DETAILS = {
  "google.rpc.ErrorInfo": define({ reason: field(1, "string"), domain: field(2, "string"), metadata: field(3, "map") }),
  "google.rpc.BadRequest": define({ field_violations: field(1, FieldViolation, true) }),
};

/** The details of a status: [{ type, value }], where `value` is a message, or bytes when the type is not known. */
export function decodeDetails(bytes) {
  return RpcStatus.decode(bytes).details.map(({ type_url, value }) => {
    const type = type_url.slice(type_url.lastIndexOf("/") + 1);
    return { type, value: DETAILS[type] ? DETAILS[type].decode(value) : value };
  });
}
