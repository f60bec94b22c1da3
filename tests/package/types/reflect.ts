// Clients from the proxy's descriptors: any method by default, the generated types where there is generated code.

import { createClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { createRegistry } from "@bufbuild/protobuf";
import type { DescService, Registry } from "@bufbuild/protobuf";
import type { GenService } from "@bufbuild/protobuf/codegenv1";
import type { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { createChannel } from "bidiway";
import type { Channel } from "bidiway";
import { createTransport } from "bidiway/connect";
import { createDecoder, reflect } from "bidiway/reflect";
import type { ReflectOptions, Reflection } from "bidiway/reflect";

declare const Wrappers: GenService<{ one: { methodKind: "unary"; input: typeof StringValueSchema; output: typeof StringValueSchema } }>;

export async function all(): Promise<string> {
  const options: ReflectOptions = { services: ["demo.v1.Greeter"], url: new URL("https://edge.example.com/bidiway/schema"), fetch: (url) => fetch(url), transport: { defaultTimeoutMs: 1000 } };
  const reflection: Reflection = await reflect(createChannel(), options);
  await reflect("https://edge.example.com");
  // @ts-expect-error: neither a channel nor a URL
  reflect(1).catch(() => {});
  const names: string[] = reflection.services().map(({ typeName }) => typeName);
  const service: DescService = reflection.service("demo.v1.Greeter");
  const greeter = reflection.client("demo.v1.Greeter");
  const { text } = await greeter.hello({ name: "Ada" }, { timeoutMs: 1000 });
  for await (const message of reflection.client("demo.v1.Chat").talk([])) names.push(message.text);
  const typed: Client<typeof Wrappers> = reflection.client<typeof Wrappers>("wrappers.v1.Wrappers");
  const value: string = (await typed.one({ value: "x" })).value;
  // @ts-expect-error: there is no such method
  typed.two;
  createClient(service, createTransport(reflection.channel));
  const registry: Registry = reflection.registry;
  const more = createDecoder(createRegistry(registry))("/demo.v1.Greeter/Hello", "in", new Uint8Array());
  await reflection.json.call("demo.v1.Greeter/Hello", { name: value });
  const channel: Channel = reflection.channel;
  await channel.close();
  return `${text}${names}${more}`;
}

