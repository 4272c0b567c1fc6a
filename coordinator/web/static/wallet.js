// A browser's wallet: found by EIP-6963, asked by EIP-1193. It signs what stands on the page and nothing else: a sign-in
// or a link (EIP-4361, personal_sign), a grant or an order (EIP-712, eth_signTypedData_v4). Never a transaction.
// A page's own module imports this one, says with whenChosen what a chosen wallet is for, and calls lookForWallets.

const main = document.querySelector("main");
const { chain, next, wallet } = main.dataset;
const REMEMBERED = "coterie-wallet";
const WAIT_FOR_WALLETS_MS = 600;

export const at = (id) => document.getElementById(id);

export class Told extends Error {}

// What went wrong, in words. Codes: EIP-1193, EIP-1474 and MetaMask's -32002.
const WORDS = new Map([
  [4001, "You refused in the wallet, so nothing was signed. Press the button again when you are ready."],
  [-32002, "The wallet is asking you something already. Open it and answer there first."],
  [4100, "The wallet does not let this page ask. Connect it to this page in the wallet, then press again."],
  [4200, "This wallet cannot sign what is needed (typed data, version 4). Use another wallet."],
  [4900, "The wallet is not connected to any chain. Look into the wallet, then press again."],
  [4901, `The wallet is not connected to chain ${chain}. Look into the wallet, then press again.`],
  [4902, `The wallet does not know chain ${chain}. Add it in the wallet's settings, then press again.`],
]);

function inWords(error) {
  if (error instanceof Told) return error.message;
  const number = error?.code ?? error?.data?.originalError?.code;
  return WORDS.get(number) ?? `The wallet answered: ${String(error?.message ?? error).slice(0, 300)}`;
}

export function say(text) {
  at("failed").hidden = true;
  at("said").hidden = !text;
  at("said").textContent = text;
}

export function complain(text) {
  at("said").hidden = true;
  at("failed").textContent = text;
  at("failed").hidden = false;
  at("failed").scrollIntoView({ block: "nearest" });
}

// One act at a time: what can be pressed waits until it is over, and what goes wrong is told.
export async function act(work) {
  const pressable = [...document.querySelectorAll("button")];
  for (const button of pressable) button.disabled = true;
  try {
    await work();
  } catch (error) {
    complain(inWords(error));
  }
  for (const button of pressable) button.disabled = false;
}

export async function post(path, body) {
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Told("The coordinator does not answer. Check your connection, then press again.");
  }
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  throw new Told([told.detail ?? `The coordinator answered ${answer.status}.`, told.hint].filter(Boolean).join(" "));
}

// Wallets announce themselves (EIP-6963), some only after they are asked; one of before that is window.ethereum.
const found = new Map();

window.addEventListener("eip6963:announceProvider", (event) => {
  const { info, provider } = event.detail ?? {};
  if (!info?.uuid || typeof provider?.request !== "function") return;
  found.set(info.uuid, { name: String(info.name), rdns: String(info.rdns), provider });
  list();
});

export function remembered() {
  const known = [...found.values()];
  return known.find((one) => one.rdns === sessionStorage.getItem(REMEMBERED)) ?? (known.length === 1 ? known[0] : null);
}

let choose = signIn;

// What is done with the wallet that is chosen; signing in, when nothing else is said.
export function whenChosen(work) {
  choose = work;
}

export function list() {
  at("wallets")?.replaceChildren(
    ...[...found.values()].map((one) => {
      const button = document.createElement("button");
      button.type = "button";
      const origin = document.createElement("small");
      origin.textContent = one.rdns;
      button.append(one.name, origin);
      button.addEventListener("click", () => act(() => choose(one)));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  if (at("no-wallet") && !at("wallets").hidden) at("no-wallet").hidden = found.size > 0;
}

async function onOurChain(provider) {
  const now = Number(await provider.request({ method: "eth_chainId" }));
  if (now === Number(chain)) return;
  say(`Your wallet asks to change to chain ${chain}: agree there.`);
  await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId: `0x${Number(chain).toString(16)}` }] });
}

function hex(text) {
  return `0x${Array.from(new TextEncoder().encode(text), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export async function accountsOf(one) {
  say(`${one.name} asks which account to use: choose it there.`);
  const accounts = await one.provider.request({ method: "eth_requestAccounts" });
  if (accounts.length === 0) throw new Told("The wallet named no account. Unlock it, then press again.");
  return accounts;
}

// EIP-4361: the coordinator writes the text, the wallet signs it.
export async function signText(one, account, asked) {
  await onOurChain(one.provider);
  const { address, message } = await post("session/text", { address: account, ...asked });
  say(`${one.name} shows the sign-in: sign it there.`);
  const signature = await one.provider.request({ method: "personal_sign", params: [hex(message), address] });
  return { message, signature };
}

export async function signIn(one) {
  const [account] = await accountsOf(one);
  await post("session/browser", await signText(one, account, {}));
  sessionStorage.setItem(REMEMBERED, one.rdns);
  location.assign(next);
}

// EIP-712, by the account that is signed in, or by another one that has to sign this.
export async function signTypedData(one, typedData, what, signer = wallet) {
  const account = signer === wallet ? await signedInAccount(one) : await accountOf(one, signer, `${signer} signs this`);
  say(`${one.name} shows the ${what}: read it and sign it there.`);
  return one.provider.request({ method: "eth_signTypedData_v4", params: [account, typedData] });
}

// An act that matters: the coordinator writes the order, the wallet signs it, and it is sent to the path of what it is
// about. Answers what came of it. `fields` are the order's own, such as {reason, round_id}.
export async function signOrder(one, kind, fields, path) {
  const { signer, order, typed_data: typedData } = await post("acts/typed-data", { kind, fields });
  const signature = await signTypedData(one, typedData, "order", signer);
  say("Checking the order with the chain …");
  return post(path, { [kind]: order, signature });
}

export function signedInAccount(one) {
  return accountOf(one, wallet, `You are signed in as ${wallet}`);
}

async function accountOf(one, meant, why) {
  const accounts = await one.provider.request({ method: "eth_requestAccounts" });
  const account = accounts.find((name) => name.toLowerCase() === meant.toLowerCase());
  if (!account) throw new Told(`${why}. Choose that account in your wallet, then press again.`);
  await onOurChain(one.provider);
  return account;
}

// With the wallet that signed in, or with one that is chosen now.
export function withWallet(work) {
  choose = work;
  const one = remembered();
  if (one) {
    act(() => work(one));
    return;
  }
  at("wallets").hidden = false;
  list();
  if (found.size) complain("Choose the wallet that signs.");
}

// Buttons that post something that stands on them, and show what came of it.
for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", () =>
    act(async () => {
      await post(button.dataset.post, JSON.parse(button.dataset.body));
      location.reload();
    }),
  );
}

export function lookForWallets() {
  window.dispatchEvent(new Event("eip6963:requestProvider"));
  setTimeout(() => {
    if (found.size === 0 && typeof window.ethereum?.request === "function") {
      found.set("window.ethereum", { name: "Browser wallet", rdns: "window.ethereum", provider: window.ethereum });
    }
    list();
  }, WAIT_FOR_WALLETS_MS);
}
