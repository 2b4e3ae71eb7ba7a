/*
 * <command-output src="…">: what a command prints, in a terminal.
 *
 * Subscribed first, then fetched from where the terminal is (catch_up.js); a piece that comes both ways is written once,
 * by its position (splice.js). Which client listens is for `subscribe` to say, in terminal.js and in
 * terminal_actioncable.js.
 */
import { Terminal } from "@xterm/xterm";
import { CatchUp } from "./catch_up.js";
import { Splice } from "./splice.js";

const theme = {
  background: "#14101a", foreground: "#f4eef2", cursor: "#14101a",
  red: "#ff8d84", brightRed: "#ff8d84", green: "#7fd0a0", brightGreen: "#7fd0a0", yellow: "#e4c07d",
};

export class CommandOutput extends HTMLElement {
  #encoder = new TextEncoder();

  connectedCallback() {
    // As wide as the pseudo-terminal that the command prints to; scrolled sideways on a phone.
    this.terminal = new Terminal({ cols: 100, rows: 32, scrollback: 10_000, disableStdin: true, fontSize: 13, theme });
    this.terminal.open(this);
    this.splice = new Splice((bytes) => this.terminal.write(bytes));
    const catchUp = new CatchUp({ fetch: () => this.fetch(), apply: (message) => this.apply(message) });
    this.subscription = this.subscribe({
      received: (message) => catchUp.receive(message),
      connected: () => catchUp.start(),
      gap: () => catchUp.start(),
    });
  }

  disconnectedCallback() {
    this.subscription.unsubscribe();
    this.terminal.dispose();
  }

  apply({ position, text, exit }) {
    const whole = this.splice.take(position, this.#encoder.encode(text));
    if (whole) this.ended(exit);
    return whole;
  }

  async fetch() {
    const { position } = this.splice;
    try {
      const answer = await fetch(`${this.getAttribute("src")}?position=${position}`);
      if (!answer.ok) return false;
      this.splice.take(position, new Uint8Array(await answer.arrayBuffer()));
      this.ended(answer.headers.get("Exit-Status") ?? undefined);
    } catch {
      return false;
    }
    return true;
  }

  ended(exit) {
    if (exit === undefined) return;
    const output = document.querySelector("output.exit");
    output.value = `exit ${exit}`;
    output.dataset.exit = exit;
  }
}
