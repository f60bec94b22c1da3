// The one field that this page needs of demo.v1.Payload, `string text = 2`, by hand. With more than that, let a
// generator write this file: see ../connect-vite.

/** Length-delimited field 2. */
const TEXT = (2 << 3) | 2;

export const Payload = {
  /** @returns {Uint8Array} */
  encode({ text }) {
    const bytes = new TextEncoder().encode(text);
    return Uint8Array.from([TEXT, ...varint(bytes.length), ...bytes]);
  },

  decode(bytes) {
    let at = 0;
    const read = () => {
      let value = 0;
      for (let shift = 1; ; shift *= 128) {
        const byte = bytes[at++];
        value += (byte & 127) * shift;
        if (byte < 128) return value;
      }
    };
    let text = "";
    while (at < bytes.length) {
      const tag = read();
      const value = read(); // a number, or a length: this message has no other kinds
      if (tag === TEXT) text = new TextDecoder().decode(bytes.subarray(at, at + value));
      if ((tag & 7) === 2) at += value;
    }
    return { text };
  },
};

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}
