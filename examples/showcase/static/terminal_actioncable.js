/*
 * <command-output data-event="…" data-user="…" data-job="…">: listens with Action Cable's own client.
 *
 * That one is never told of lost messages: a page that is too slow is disconnected instead, and comes back by itself. So
 * `connected` is the only time to fetch what there is.
 */
import { createConsumer } from "@rails/actioncable";
import { showState } from "./cable_state.js";
import { CommandOutput } from "./command_output.js";

const consumer = createConsumer(document.documentElement.dataset.cable);

customElements.define("command-output", class extends CommandOutput {
  subscribe({ received, connected }) {
    return consumer.subscriptions.create({ channel: "Output", ...this.dataset }, {
      received,
      connected() {
        showState("open");
        connected();
      },
      disconnected: ({ willAttemptReconnect }) => showState(willAttemptReconnect ? "waiting" : "closed"),
      rejected: () => showState("rejected"),
    });
  }
});
