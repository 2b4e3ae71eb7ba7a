// <form data-in-place>: posted without leaving the page, which shows the outcome when it is published.
addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-in-place]")) return;
  event.preventDefault();
  form.removeAttribute("data-failed");
  const body = new URLSearchParams(new FormData(form, event.submitter));
  const answer = await fetch(form.action, { method: "POST", body }).catch(() => undefined);
  if (!answer?.ok) form.dataset.failed = answer ? await answer.text() : "The application cannot be reached.";
});
