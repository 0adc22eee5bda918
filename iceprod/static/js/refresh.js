/**
 * Keeps marked parts of a page up to date, as long as somebody looks and nobody is about to press a button.
 * @module refresh
 */

/** Look at the page once more, and show what is new in its marked parts. */
export async function refresh() {
  if (document.hidden || document.querySelector("dialog[open]")) return;
  const answer = await fetch(window.location.href, { credentials: "same-origin" });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const fresh = page.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
    if (!fresh || part.contains(document.activeElement) || fresh.innerHTML === part.innerHTML) continue;
    part.replaceChildren(...fresh.childNodes);
  }
}

/**
 * @param {number} everyMs how often the page is looked at again
 */
export function keepFresh(everyMs) {
  window.setInterval(() => refresh().catch(() => {}), everyMs);
}
