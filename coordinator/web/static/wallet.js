// A browser's wallet: found by EIP-6963, asked by EIP-1193. It signs what stands on the page and nothing else: a sign-in
// or a link (EIP-4361, personal_sign) and a grant (EIP-712, eth_signTypedData_v4). Never a transaction.

const main = document.querySelector("main");
const { chain, code, next, wallet } = main.dataset;
const at = (id) => document.getElementById(id);
const REMEMBERED = "coterie-wallet";
const WAIT_FOR_WALLETS_MS = 600;

class Told extends Error {}

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

function say(text) {
  at("failed").hidden = true;
  at("said").hidden = !text;
  at("said").textContent = text;
}

function complain(text) {
  at("said").hidden = true;
  at("failed").textContent = text;
  at("failed").hidden = false;
  at("failed").scrollIntoView({ block: "nearest" });
}

// One act at a time: what can be pressed waits until it is over, and what goes wrong is told.
async function act(work) {
  const pressable = [...document.querySelectorAll("button")];
  for (const button of pressable) button.disabled = true;
  try {
    await work();
  } catch (error) {
    complain(inWords(error));
  }
  for (const button of pressable) button.disabled = false;
}

async function post(path, body) {
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

function remembered() {
  const known = [...found.values()];
  return known.find((one) => one.rdns === sessionStorage.getItem(REMEMBERED)) ?? (known.length === 1 ? known[0] : null);
}

let choose = wallet && !code ? linkWallet : signIn;

function list() {
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

async function signIn(one) {
  say(`${one.name} asks which account to use: choose it there.`);
  const [account] = await one.provider.request({ method: "eth_requestAccounts" });
  if (!account) throw new Told("The wallet named no account. Unlock it, then press again.");
  await onOurChain(one.provider);
  const { address, message } = await post("session/text", { address: account });
  say(`${one.name} shows the sign-in: sign it there.`);
  const signature = await one.provider.request({ method: "personal_sign", params: [hex(message), address] });
  await post("session/browser", { message, signature });
  sessionStorage.setItem(REMEMBERED, one.rdns);
  location.assign(next);
}

async function linkWallet(one) {
  say(`${one.name} asks which account to link: choose it there.`);
  const [account] = await one.provider.request({ method: "eth_requestAccounts" });
  if (!account) throw new Told("The wallet named no account. Unlock it, then press again.");
  if (account.toLowerCase() === wallet.toLowerCase()) {
    throw new Told("This is the account that is signed in. Change to the other one in your wallet, then press again.");
  }
  await onOurChain(one.provider);
  const { address, message } = await post("session/text", { address: account, link_to: wallet });
  say(`${one.name} shows what links it: sign it there.`);
  const signature = await one.provider.request({ method: "personal_sign", params: [hex(message), address] });
  await post("wallets/link", { message, signature });
  location.reload();
}

async function signGrant(one) {
  const tokens = [...document.querySelectorAll("input[name=token]:checked")].map((box) => box.value);
  if (tokens.length === 0) throw new Told("Nothing is ticked. Tick the NFTs that you want to grant.");
  const accounts = await one.provider.request({ method: "eth_requestAccounts" });
  const account = accounts.find((name) => name.toLowerCase() === wallet.toLowerCase());
  if (!account) throw new Told(`You are signed in as ${wallet}. Choose that account in your wallet, then press again.`);
  await onOurChain(one.provider);
  const days = Number(at("days").value);
  const { grant, typed_data: typedData } = await post("devices/proposal", { user_code: code, tokens, days });
  say(`${one.name} shows the grant: read it and sign it there.`);
  const signature = await one.provider.request({ method: "eth_signTypedData_v4", params: [account, typedData] });
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

// Buttons that post something that stands on them, and show what came of it.
for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", () =>
    act(async () => {
      await post(button.dataset.post, JSON.parse(button.dataset.body));
      location.reload();
    }),
  );
}

at("grant")?.addEventListener("submit", (event) => {
  event.preventDefault();
  choose = signGrant;
  const one = remembered();
  if (one) {
    act(() => signGrant(one));
    return;
  }
  at("wallets").hidden = false;
  list();
  if (found.size) complain("Choose the wallet that signs.");
});

for (const box of document.querySelectorAll("input[name=token]")) box.addEventListener("change", count);
if (at("grant")) count();

window.dispatchEvent(new Event("eip6963:requestProvider"));
setTimeout(() => {
  if (found.size === 0 && typeof window.ethereum?.request === "function") {
    found.set("window.ethereum", { name: "Browser wallet", rdns: "window.ethereum", provider: window.ethereum });
  }
  list();
}, WAIT_FOR_WALLETS_MS);
