/**
 * What every page does: ask before forms that say so, and lead to what is wrong.
 * @module site
 */

import { confirm } from "./dialog.js";

// Parts of a page come anew while one looks at it, so it is the page that listens.
document.addEventListener("submit", async (event) => {
  const form = /** @type {HTMLFormElement} */ (event.target);
  if (!form.dataset.confirm || form.dataset.sure) return;
  event.preventDefault();
  if (await confirm(form.dataset.confirm)) {
    form.dataset.sure = "yes";
    form.requestSubmit(event.submitter);
  }
});

document.querySelector("[data-focus]")?.focus();
