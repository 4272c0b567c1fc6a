// The page of a member's wallets: signing in, and linking a second wallet.
import { accountsOf, lookForWallets, post, signText, Told, whenChosen } from "./wallet.js";

const { wallet } = document.querySelector("main").dataset;

async function linkWallet(one) {
  const [account] = await accountsOf(one);
  if (account.toLowerCase() === wallet.toLowerCase()) {
    throw new Told("This is the account that is signed in. Change to the other one in your wallet, then press again.");
  }
  await post("wallets/link", await signText(one, account, { link_to: wallet }));
  location.reload();
}

if (wallet) whenChosen(linkWallet);
lookForWallets();
