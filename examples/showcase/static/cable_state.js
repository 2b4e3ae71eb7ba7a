// <cable-state>: how the page's connection is.
const WORDS = {
  open: "Live", connecting: "Connecting", waiting: "Reconnecting", closed: "Not connected",
  rejected: "Rejected: the server knows no such channel",
};

export function showState(state) {
  const element = document.querySelector("cable-state");
  element.dataset.state = state;
  element.textContent = WORDS[state];
}
