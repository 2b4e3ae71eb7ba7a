// <live-progress stream="…" src="…">: how far a long job is. Each message is the whole state, and the last is retained.
import { cable } from "./cable.js";

class LiveProgress extends HTMLElement {
  #received = 0;

  connectedCallback() {
    this.subscription = cable.subscribe(this.getAttribute("stream"), {
      received: (state) => {
        this.#received += 1;
        this.show(state);
      },
      missed: () => this.refetch(),
    });
  }

  disconnectedCallback() {
    this.subscription.unsubscribe();
  }

  async refetch() {
    const before = this.#received;
    const answer = await fetch(this.getAttribute("src")).catch(() => undefined);
    if (answer?.ok && before === this.#received) this.show(await answer.json()); // else a message was faster, and is newer
  }

  show({ status, progress, message, download_key: key }) {
    this.dataset.status = status;
    this.querySelector("progress").value = progress;
    this.querySelector("output").textContent = message;
    const link = this.querySelector("a[data-base]");
    if (key && link) link.href = link.dataset.base + key;
  }
}
customElements.define("live-progress", LiveProgress);
