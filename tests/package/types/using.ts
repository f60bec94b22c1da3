// `await using`, for programs that have it: TypeScript 5.2 and `lib: ["ESNext.Disposable"]`.

import { createChannel } from "bidiway";

export async function once(): Promise<number> {
  await using channel = createChannel();
  await using call = channel.open({ method: "/demo.v1.Lab/Wait" });
  await call.headers;
  return 1;
}
