// The CIDs that js ipfs-unixfs-importer gives: a second opinion on protocol/unixfs.py.
//
// stdin: JSON, a list of {files: {"a/b": base64}, chunkBytes?: n, links?: n}; stdout: the list of root CIDs.
// Without chunkBytes and links it is IPIP-499's profile unixfs-v1-2025 as the importer knows it by name.

import { dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath, pathToFileURL } from "node:url";

const modules = process.env.COTERIE_NODE_MODULES ?? join(dirname(fileURLToPath(import.meta.url)), "node_modules");
const load = (path) => import(pathToFileURL(join(modules, "ipfs-unixfs-importer/dist/src", path)));
const { importer } = await load("index.js");
const { fixedSize } = await load("chunker/index.js");
const { balanced } = await load("layout/index.js");

const forgetful = { put: async (cid) => cid };

async function rootOf({ files, chunkBytes, links }) {
  const options = { profile: "unixfs-v1-2025", wrapWithDirectory: true };
  if (chunkBytes) options.chunker = fixedSize({ chunkSize: chunkBytes });
  if (links) options.layout = balanced({ maxChildrenPerNode: links });
  const source = Object.entries(files).map(([path, content]) => ({ path, content: Buffer.from(content, "base64") }));
  let root;
  for await (const entry of importer(source, forgetful, options)) root = entry;
  return root.cid.toString();
}

const roots = [];
for (const directory of JSON.parse(await text(process.stdin))) roots.push(await rootOf(directory));
process.stdout.write(JSON.stringify(roots));
