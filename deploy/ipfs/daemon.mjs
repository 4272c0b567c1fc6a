// A real IPFS node, js-ipfs core with its HTTP API: `node daemon.mjs REPO`. It is offline and on loopback, on a free
// port, which is printed as one line of JSON once it answers. It ends with its stdin, so never outlives its parent.

import { create } from "ipfs-core";
import { HttpApi } from "ipfs-http-server";

const any = "/ip4/127.0.0.1/tcp/0";
const ipfs = await create({
  repo: process.argv[2],
  offline: true,
  silent: true,
  init: { emptyRepo: true, algorithm: "Ed25519" },
  config: {
    Addresses: { Swarm: [], API: any, Gateway: any, RPC: any, Delegates: [] },
    Bootstrap: [],
    Discovery: { MDNS: { Enabled: false }, webRTCStar: { Enabled: false } },
    Routing: { Type: "none" },
  },
});
const api = new HttpApi(ipfs);
await api.start();
process.stdout.write(`${JSON.stringify({ api: api._apiServers[0].info.uri })}\n`);

const stop = async () => {
  await api.stop();
  await ipfs.stop();
  process.exit(0);
};
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
process.stdin.on("end", stop).resume();
