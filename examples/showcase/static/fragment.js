// Replacing a part of the page with HTML that the application rendered, unless it is older than what is shown.

/** Shows `html`, one element with a data-version, as the only content of `target`; false if that is older. */
export function show(target, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const [next] = template.content.children;
  if (version(next) < version(target.firstElementChild)) return false;
  target.replaceChildren(next);
  return true;
}

export const version = (element) => Number(element?.dataset.version ?? 0);

/** The HTML at `url`; undefined when the application cannot be reached, or says no. */
export async function fetchHTML(url) {
  try {
    const answer = await fetch(url);
    if (answer.ok) return await answer.text();
  } catch {
    // the application restarts, or there is no network
  }
}
