// Compiles contracts/*.sol into build/<Contract>.json ({contractName, abi, bytecode}: the keys of OpenZeppelin's
// prebuilt artifacts). Does nothing while every artifact is newer than what it is made from.
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const build = join(here, "build");
const names = readdirSync(join(here, "contracts"))
  .filter((file) => file.endsWith(".sol"))
  .map((file) => file.slice(0, -".sol".length));
const EIP170_MAX_CODE_BYTES = 24576;

const changed = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
const artifact = (name) => join(build, `${name}.json`);
const inputs = [
  ...names.map((name) => join(here, "contracts", `${name}.sol`)),
  join(here, "compile.mjs"),
  join(here, "package-lock.json"),
];

if (Math.min(...names.map((name) => changed(artifact(name)))) <= Math.max(...inputs.map(changed))) {
  const { default: solc } = await import("solc");
  const source = (path) => readFileSync(path, "utf8");
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(
      names.map((name) => [`contracts/${name}.sol`, { content: source(join(here, "contracts", `${name}.sol`)) }]),
    ),
    settings: {
      evmVersion: "paris", // SignatureValidator is sent to whatever chain a DAO is on, those without PUSH0 too
      optimizer: { enabled: true, runs: 200 },
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const findImport = (path) => {
    try {
      return { contents: source(join(here, "node_modules", path)) };
    } catch {
      return { error: `${path} is not in node_modules: run "npm ci --ignore-scripts" in ${here}` };
    }
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
  const errors = (output.errors ?? []).filter((error) => error.severity === "error");
  if (errors.length > 0) {
    console.error(errors.map((error) => error.formattedMessage).join("\n"));
    process.exit(1);
  }
  mkdirSync(build, { recursive: true });
  for (const name of names) {
    const { abi, evm } = output.contracts[`contracts/${name}.sol`][name];
    const size = evm.deployedBytecode.object.length / 2;
    if (size > EIP170_MAX_CODE_BYTES) throw new Error(`${name} has ${size} bytes of code, more than EIP-170 allows`);
    // Renamed into place: another process that compiles or reads at this moment never sees half a file.
    const half = `${artifact(name)}.${process.pid}`;
    writeFileSync(half, JSON.stringify({ contractName: name, abi, bytecode: `0x${evm.bytecode.object}` }));
    renameSync(half, artifact(name));
    console.log(`${name}: ${size} bytes of code`);
  }
}
