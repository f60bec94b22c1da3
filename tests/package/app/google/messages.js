// Two messages of one text each, in the shape of google-protobuf's.

class Text {
  text = "";

  serializeBinary() {
    const bytes = new TextEncoder().encode(this.text);
    return Uint8Array.of(0x0a, bytes.length, ...bytes);
  }
}

export class HelloRequest extends Text {}

export class HelloReply extends Text {
  static deserializeBinary(bytes) {
    return Object.assign(new HelloReply(), { text: new TextDecoder().decode(bytes.subarray(2)) });
  }
}
