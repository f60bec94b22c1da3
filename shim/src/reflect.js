// Connect clients without generated code: their types come from the proxy, which has them from the service.

import { createFileRegistry, createRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createTransport } from "./connect.js";
import { createChannel } from "./index.js";
import { createJsonClient } from "./json.js";
import { UNAVAILABLE, UNIMPLEMENTED, UNKNOWN } from "./protocol.js";
import { clientError } from "./status.js";

/** @typedef {import("@bufbuild/protobuf").DescMessage} DescMessage */
/** @typedef {import("@bufbuild/protobuf").DescService} DescService */
/** @typedef {import("@bufbuild/protobuf").JsonValue} JsonValue */
/** @typedef {import("@bufbuild/protobuf").Registry} Registry */
/** @typedef {import("@connectrpc/connect").CallOptions} CallOptions */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./json.js").JsonClient} JsonClient */

/**
 * @typedef {object} ReflectOptions
 * @property {string[]} [services] only these, such as `"demo.v1.Greeter"`; otherwise all that the proxy has routes for
 * @property {string | URL} [url] the proxy's schema endpoint; by default `/bidiway/schema` on the page's origin, or on
 *   that of the URL. Outside of a page a channel needs it
 * @property {(url: string) => Promise<Response>} [fetch] for instance with credentials
 * @property {import("./connect.js").ConnectTransportOptions} [transport] of the clients
 */

/**
 * @template S
 * @typedef {[S] extends [never] ? DynamicClient : S extends DescService ? import("@connectrpc/connect").Client<S> : never} ReflectedClient
 */

/** @typedef {{ [method: string]: (input?: any, options?: CallOptions) => any }} DynamicClient as Connect makes it of a service */

/**
 * @typedef {object} Reflection
 * @property {() => DescService[]} services
 * @property {(name: string) => DescService} service by its full name
 * @property {<S = never>(name: string) => ReflectedClient<S>} client
 *   A Connect client, with all four kinds of calls. Where there is generated code after all, it gives the type:
 *   `client<typeof Greeter>("demo.v1.Greeter")`.
 * @property {Registry} registry every type that was loaded: for `Any`, for extensions (custom options among them), for
 *   `ConnectError.findDetails(registry)`
 * @property {(method: string, direction: "in" | "out", bytes: Uint8Array) => JsonValue | undefined} decode
 *   A message as JSON, for `logCalls` of `bidiway/debug`.
 * @property {JsonClient} json calls that the proxy translates
 * @property {Channel} channel
 */

/**
 * Loads the schemas of the proxy's services. The proxy serves them where its configuration has `schema_endpoint: true`.
 * @example const greeter = (await reflect(channel)).client("demo.v1.Greeter");
 * @param {Channel | string | URL} target a channel, or the proxy's URL
 * @param {ReflectOptions} [options]
 * @returns {Promise<Reflection>}
 * @throws {import("./index.js").BidiwayError}
 */
export async function reflect(target, { services, url, fetch = globalThis.fetch, transport: transportOptions } = {}) {
  const page = globalThis.location?.href;
  const proxy = typeof target === "string" || target instanceof URL ? new URL(target, page) : undefined;
  const base = url ?? (proxy ? new URL("/bidiway/schema", proxy) : page && new URL("/bidiway/schema", page));
  if (!base) throw new TypeError("reflect(): outside of a page, `url` has to say where the proxy's schema endpoint is");
  const endpoint = `${base}`.replace(/^ws/, "http");
  const channel = proxy ? createChannel({ url: new URL("/bidiway/session", proxy) }) : /** @type {Channel} */ (target);

  /** @param {string} path */
  const load = async (path) => {
    const from = endpoint + path;
    const response = await fetch(from).catch((cause) => {
      throw clientError(UNAVAILABLE, `no answer from ${from}`, { cause });
    });
    if (response.ok) return response;
    const hint = response.status === 404 && !path ? "the proxy serves no schemas without `schema_endpoint: true`" : (await response.text()).trim();
    throw clientError(STATUS[response.status] ?? UNKNOWN, `${from}: ${response.status}: ${hint}`);
  };
  /** @param {string} path */
  const loadRegistry = async (path) => {
    const bytes = new Uint8Array(await (await load(path)).arrayBuffer());
    return createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
  };

  /** @type {string[]} what is known to be missing, and why */
  const missing = [];
  const pathOf = (/** @type {string} */ name) => `?service=${encodeURIComponent(name)}`;
  const names = [...(services ?? [])];
  const paths = names.map(pathOf);
  if (!services) {
    /** @type {{ upstreams: Record<string, { services?: { name: string, error?: string }[], error?: string }> }} */
    const { upstreams } = await (await load("")).json();
    for (const [upstream, { services = [], error }] of Object.entries(upstreams)) {
      const known = services.filter(({ error }) => !error).map(({ name }) => name);
      for (const offer of [{ name: upstream, error }, ...services]) if (offer.error) missing.push(`${offer.name}: ${offer.error}`);
      names.push(...known.filter((name) => !names.includes(name)));
      // One broken service makes the whole set one.
      paths.push(...(known.length < services.length ? known.map(pathOf) : known.length ? [`/${encodeURIComponent(upstream)}.binpb`] : []));
    }
  }
  // Of what two upstreams have, the first counts, as it does for the endpoint; the registry takes the last.
  const registry = createRegistry(...(await Promise.all(paths.map(loadRegistry))).reverse());

  const transport = createTransport(channel, transportOptions);
  /** @param {string} name */
  const service = (name) => {
    const found = names.includes(name) && registry.getService(name);
    if (!found) throw clientError(UNIMPLEMENTED, [`no service ${name}; there are ${names.join(", ")}`, ...missing].join("; "));
    return found;
  };
  return {
    services: () => names.map(service),
    service,
    client: (name) => /** @type {any} */ (createClient(service(name), transport)),
    registry,
    decode: createDecoder(registry),
    json: createJsonClient(channel),
    channel,
  };
}

/** What an HTTP status means here. @type {{ [status: number]: number }} */
const STATUS = { 404: UNIMPLEMENTED, 502: UNAVAILABLE, 503: UNAVAILABLE };

/**
 * What `logCalls` of `bidiway/debug` reads messages with: `createDecoder(createRegistry(Greeter, Chat))` for generated
 * code. Fields with the option `debug_redact` are not shown.
 * @param {Registry} registry
 * @returns {Reflection["decode"]}
 */
export function createDecoder(registry) {
  /**
   * @param {DescMessage | undefined} schema
   * @param {any} json of a message
   */
  const redact = (schema, json) => {
    if (schema?.typeName === "google.protobuf.Any") schema = registry.getMessage(json["@type"]?.replace(/.*\//, ""));
    for (const [key, value] of Object.entries(json ?? {})) {
      const field = key.startsWith("[") ? registry.getExtension(key.slice(1, -1)) : schema?.fields.find(({ jsonName }) => jsonName === key);
      if (field?.proto.options?.debugRedact) json[key] = "•••";
      else if (field?.message) for (const each of field.fieldKind === "message" ? [value] : Object.values(value ?? {})) redact(field.message, each);
    }
    return json;
  };
  return (method, direction, bytes) => {
    const [, service, name] = method.split("/");
    const found = registry.getService(service)?.methods.find((each) => each.name === name);
    const schema = direction === "out" ? found?.input : found?.output;
    return schema && redact(schema, toJson(schema, fromBinary(schema, bytes), { registry }));
  };
}
