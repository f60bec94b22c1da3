/** What a bidirectional call sends: an async iterable that is filled from outside. */
export class Outgoing<T> implements AsyncIterable<T> {
  #waiting: T[] = [];
  #ended = false;
  #wake = () => {};

  push(message: T) {
    this.#waiting.push(message);
    this.#wake();
  }

  /** Half-closes: the service learns that nothing more follows. */
  end() {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#waiting.length) yield this.#waiting.shift()!;
      if (this.#ended) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
