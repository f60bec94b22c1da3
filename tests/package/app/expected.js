/** What `makeCalls` returns when all is well. */
export const EXPECTED = { unary: "Hello, Ada!", serverStream: 50, clientStream: 50, bidi: 20, state: "closed" };
