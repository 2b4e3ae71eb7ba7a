/** Joins pieces of one text by position, in bytes: each byte is written once, in order, whatever comes how often. */
export class Splice {
  /** Everything before this position was written. */
  position = 0;
  #write;

  constructor(write) {
    this.#write = write;
  }

  /** Takes the piece that begins at `position`; false if there is a hole before it, and nothing was written. */
  take(position, bytes) {
    if (position > this.position) return false;
    const news = bytes.subarray(this.position - position);
    if (news.length) this.#write(news);
    this.position += news.length;
    return true;
  }
}
