// A member's own page: revoking and renewing by signatures of the wallet, and finding an NFT among the cards.
import { lookForWallets, post, say, signOrder, signTypedData, Told, withWallet } from "./wallet.js";

function lookAt(grant) {
  location.hash = `grant-${grant}`;
  location.reload();
}

for (const form of document.querySelectorAll("form[data-revoke]")) {
  const { revoke, member, hash } = form.dataset;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    withWallet(async (one) => {
      await signOrder(one, "revoke_grant", { member, grant_hash: hash }, `grants/${revoke}/revocation`);
      lookAt(revoke);
    });
  });
}

async function renewed(one, grant, days) {
  say("Asking the chain about the NFTs …");
  const told = await post(`grants/${grant}/renewal`, { days });
  if (told.left_out.length && !window.confirm(`Left out of the new grant: ${told.left_out.join(" ")} Go on?`)) {
    throw new Told("Nothing was signed.");
  }
  const signature = await signTypedData(one, told.typed_data, "grant");
  say("Checking the grant with the chain …");
  const { grant_id: id } = await post("grants", { grant: told.grant, signature });
  lookAt(id);
}

for (const form of document.querySelectorAll("form[data-renew]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    withWallet((one) => renewed(one, form.dataset.renew, Number(form.elements.days.value)));
  });
}

// The cards come after the page, so the field that finds them is listened to from above.
function offerToFind() {
  for (const field of document.querySelectorAll(".find")) field.hidden = false;
}

document.addEventListener("input", ({ target }) => {
  if (target.id !== "find") return;
  const words = target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of document.querySelectorAll(".card")) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every((word) => text.includes(word));
    shown += card.hidden ? 0 : 1;
  }
  document.getElementById("found").textContent = words.length ? `${shown} found` : "";
});

const nfts = document.getElementById("nfts");
if (nfts) new MutationObserver(offerToFind).observe(nfts, { childList: true });
offerToFind();
lookForWallets();
