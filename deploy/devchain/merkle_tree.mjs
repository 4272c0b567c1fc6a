// Reads a StandardMerkleTree dump on standard input as its own library does, and prints its root and every proof.
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

let text = "";
for await (const piece of process.stdin) text += piece;
const tree = StandardMerkleTree.load(JSON.parse(text));
tree.validate();
const again = StandardMerkleTree.of([...tree.entries()].map(([, value]) => value), ["address", "uint256"]);
const proofs = Object.fromEntries([...tree.entries()].map(([at, [member]]) => [member, tree.getProof(at)]));
console.log(JSON.stringify({ root: tree.root, again: again.root, dump: again.dump(), proofs }));
