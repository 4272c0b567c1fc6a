// The page where a member lets a machine train: signing in, choosing tokens, signing the grant.
import { at, lookForWallets, post, say, signedInAccount, signTypedData, Told, withWallet } from "./wallet.js";

const { code } = document.querySelector("main").dataset;

async function signGrant(one) {
  const tokens = [...document.querySelectorAll("input[name=token]:checked")].map((box) => box.value);
  if (tokens.length === 0) throw new Told("Nothing is ticked. Tick the NFTs that you want to grant.");
  await signedInAccount(one);
  const days = Number(at("days").value);
  const { grant, typed_data: typedData } = await post("devices/proposal", { user_code: code, tokens, days });
  const signature = await signTypedData(one, typedData, "grant");
  say("Checking the grant with the chain …");
  await post("devices/grant", { user_code: code, grant, signature });
  location.reload();
}

function count() {
  const chosen = [...document.querySelectorAll("input[name=token]:checked")];
  at("chosen").textContent = chosen.length;
  const silent = chosen.some((box) => "warrant" in box.dataset);
  at("warrant").hidden = at("warrant-word").hidden = !silent;
}

at("grant")?.addEventListener("submit", (event) => {
  event.preventDefault();
  withWallet(signGrant);
});

for (const box of document.querySelectorAll("input[name=token]")) box.addEventListener("change", count);
if (at("grant")) count();
lookForWallets();
