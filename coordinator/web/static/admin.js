// The admins' desk: a form with data-order is an order. Its button asks the wallet for one signature over exactly that,
// and sends it; what came of it, the page that follows shows.
import { at, complain, lookForWallets, signOrder, withWallet } from "./wallet.js";

function typed(form) {
  const said = {};
  for (const field of form.elements) {
    if (field.name) said[field.name] = "number" in field.dataset ? Number(field.value) : field.value.trim();
  }
  return said;
}

async function give(one, form) {
  const { order, path, fields, next } = form.dataset;
  const answer = await signOrder(one, order, { ...JSON.parse(fields), ...typed(form) }, path);
  location.assign(next.replace("{round_id}", encodeURIComponent(answer.round_id ?? "")));
}

// On the document, because htmx brings new forms.
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-order]");
  if (!form) return;
  event.preventDefault();
  withWallet((one) => give(one, form));
});

// Who changes the plan signs nothing before the changed plan is shown beside it.
document.addEventListener("input", (event) => {
  if (!event.target.closest("#plan")) return;
  for (const button of document.querySelectorAll("#rehearsal button")) button.disabled = true;
});

// A part that could not be refreshed says so; what stands there stays.
document.addEventListener("htmx:error", () => complain("The coordinator does not answer. What you see may be old."));

if (at("wallets")) lookForWallets();
