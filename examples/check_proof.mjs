// Checks a proof of presence by Node alone: node check_proof.mjs proof.json record.json (docs/proof-format.md)
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const range = ([first, last = first]) => `\\u{${first}}-\\u{${last}}`;
const signs = (ranges) => new RegExp(`[${ranges.trim().split(/\s+/).map((one) => range(one.split("-"))).join("")}]`, "gu");
const UNSEEN = signs(`0-8 e-1f 7f-84 86-9f ad 34f 61c 115f-1160 17b4-17b5 180b-180f 200b-200f 202a-202e 2060-206f 3164
  fe00-fe0f feff ffa0 fff0-fffb 1bca0-1bca3 1d173-1d17a e0000-e0fff`);
const LOST = new RegExp(signs(`  aa b2-b3 b9-ba bc-be 2b0-2b8 2e0-2e4 10fc 1d2c-1d2e 1d30-1d3a 1d3c-1d4d 1d4f-1d6a 1d78 1d9b-1dbf
  2070-2071 2074-208e 2090-209c 2102 210a-2113 2115 2119-211d 2120 2122 2124 2128 212c-212d 212f-2131
  2133-2134 2139 213c-2140 2145-2149 2150-215f 2189 2460-249b 24b6-24ea 2c7c-2c7d 2d6f 3192-319f 3244-3247
  3250-327e 3280-33ff a69c-a69d a770 a7f2-a7f4 a7f8-a7f9 ab5c-ab5f ab69 fb20-fb29 10781-10785 10787-107b0
  107b2-107ba 1d400-1d454 1d456-1d49c 1d49e-1d49f 1d4a2 1d4a5-1d4a6 1d4a9-1d4ac 1d4ae-1d4b9 1d4bb
  1d4bd-1d4c3 1d4c5-1d505 1d507-1d50a 1d50d-1d514 1d516-1d51c 1d51e-1d539 1d53b-1d53e 1d540-1d544 1d546
  1d54a-1d550 1d552-1d6a5 1d6a8-1d7cb 1d7ce-1d7ff 1ee00-1ee03 1ee05-1ee1f 1ee21-1ee22 1ee24 1ee27
  1ee29-1ee32 1ee34-1ee37 1ee39 1ee3b 1ee42 1ee47 1ee49 1ee4b 1ee4d-1ee4f 1ee51-1ee52 1ee54 1ee57 1ee59
  1ee5b 1ee5d 1ee5f 1ee61-1ee62 1ee64 1ee67-1ee6a 1ee6c-1ee72 1ee74-1ee77 1ee79-1ee7c 1ee7e 1ee80-1ee89
  1ee8b-1ee9b 1eea1-1eea3 1eea5-1eea9 1eeab-1eebb 1f100-1f10a 1f12b-1f12e 1f130-1f14f 1f16a-1f16c 1f190
  1f200-1f202 1f210-1f23b 1f250-1f251 1fbf0-1fbf9
`).source, "u");
const HASH = /^[0-9a-f]{64}$/, SALT = /^[0-9a-f]{32}$/, STRING = /"(?:[^"\\]|\\.)*"/g;
const LEAF = { index: 0, lookup: HASH, record: HASH, facts_sha256: HASH, path: [HASH] };
const ROW = { identity: HASH, salt: SALT, facts: "", leaves: [LEAF] };
const PROOF = { ...ROW, kind: /^presence$/, times: 0, rows: 0, also: [ROW],
  tree: { size: 0, key: "", root: HASH }, manifests: { training_mixture: "", fine_tuned_model: "" } };
const LATER = { rows: 1, also: [] }; // fields that proofs of version 1 do not have

const NUMBER = "\\u0000number";
const fail = (problem) => { console.error(problem); process.exit(1); };
const need = (holds, problem) => holds || fail(problem);
const bytes = (hex) => Buffer.from(hex, "hex");
const sha = (...parts) => createHash("sha256").update(Buffer.concat(parts.map((part) => Buffer.from(part)))).digest();

// JSON in which a name stands once; a number that is not whole becomes an object, which is wrong wherever it counts.
function parse(text) {
  const open = [];
  const read = (token, colon) => {
    if ("{[".includes(token)) open.push(new Set());
    else if ("}]".includes(token)) open.pop();
    else if (colon) {
      const name = JSON.parse(token.slice(0, -colon.length));
      need(!open.at(-1)?.has(name), `not a proof: ${name} is said twice`);
      open.at(-1)?.add(name);
    } else if (token[0] !== '"' && !/^-?(0|[1-9]\d{0,14})$/.test(token)) return `{"${NUMBER}":"${token}"}`;
    return token;
  };
  return JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]|-?\d[\d.eE+-]*/g, read));
}
function file(name) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(readFileSync(name));
    need(text.match(STRING)?.every((each) => JSON.parse(each).isWellFormed()) ?? true, `${name}: not JSON: half a pair`);
    return parse(text);
  } catch (error) {
    return fail(`${name}: not JSON: ${error.message.split("\n")[0]}`);
  }
}
function check(value, form, name) {
  const wrong = `not a proof: ${name} is ${String(JSON.stringify(value)).slice(0, 80)}`;
  if (form instanceof RegExp) return need(typeof value === "string" && form.test(value), wrong);
  if (typeof form !== "object") return need(typeof value === typeof form && !(value < 0), wrong);
  need(typeof value === "object" && value !== null && Array.isArray(value) === Array.isArray(form), wrong);
  if (Array.isArray(form)) return value.forEach((one, at) => check(one, form[0], `${name}.${at}`));
  for (const part in form) check(part in value ? value[part] : LATER[part], form[part], `${name}.${part}`);
}

const each = (text, form) => Array.from(text, form).join("");
const folds = (sign) => {
  if (sign === "\u1e9e") return "ss";
  if (/[\u13a0-\u13ff\uab70-\uabbf]/.test(sign)) return sign.toUpperCase();
  const stays = sign === "\u0131" || (/\p{M}/u.test(sign) && sign !== "\u0345");
  return stays ? sign : each(sign.toUpperCase(), (one) => one.toLowerCase());
};
const folded = (text) => each(text.normalize("NFKC"), folds).normalize("NFKC");
const spaced = (text) => text.split(/[\s\x85]+/u).filter(Boolean).join(" ");
const normal = (text) => spaced(folded(text.replace(UNSEEN, "")));
function exact(text) {
  const runs = [];
  for (const sign of text.replace(UNSEEN, "").normalize("NFC")) {
    const lost = LOST.test(sign);
    if (runs.at(-1)?.lost === lost) runs.at(-1).text += sign;
    else runs.push({ lost, text: sign });
  }
  return spaced(runs.map((run) => (run.lost ? each(run.text, folds) : folded(run.text))).join(""));
}
const ordered = (content) => {
  if (Array.isArray(content)) return `[${content.map(ordered).join(",")}]`;
  if (typeof content !== "object" || content === null) return JSON.stringify(content);
  const names = Object.keys(content).sort((one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)));
  return `{${names.map((name) => `${JSON.stringify(name)}:${ordered(content[name])}`).join(",")}}`;
};
const inStrings = (content) => ordered(content).replace(STRING, (found) => JSON.stringify(exact(JSON.parse(found))));
function identities([kind, parts, ...tools]) {
  const one = [1, kind, parts.map(([role, text]) => [role, normal(text)])];
  const two = [2, kind, parts.map(([role, text, ...more]) => [role, exact(text), ...more.map(inStrings)]), ...tools.map(inStrings)];
  const says = tools.length || parts.some((part) => part.length > 2 || LOST.test(part[1]));
  return (says ? [one, two] : [one]).map((content) => sha(JSON.stringify(content)).toString("hex"));
}
function root(row, size) {
  const [leaf] = row.leaves, salt = bytes(row.salt), path = [...leaf.path];
  let node = sha([0], bytes(leaf.lookup), sha(salt, bytes(row.identity)), sha(salt, row.facts));
  let index = leaf.index, last = size - 1;
  if (index > last) return null;
  for (; last; index = Math.floor(index / 2), last = Math.floor(last / 2)) {
    if (!(index % 2) && index >= last) continue;
    if (!path.length) return null;
    const other = bytes(path.shift());
    node = index % 2 ? sha([1], other, node) : sha([1], node, other);
  }
  return path.length ? null : node.toString("hex");
}

need(process.argv.length === 4, "node check_proof.mjs proof.json record.json");
const [proof, record] = process.argv.slice(2).map(file);
need(proof !== null && typeof proof === "object" && !Array.isArray(proof), "not a proof: no object");
need([1, 2].includes(proof.schema_version), `not a proof: schema_version is ${JSON.stringify(proof.schema_version)}, not 1 or 2`);
need(proof.kind !== "absence", "a proof of absence: `ft-dagster audit check --key` checks it");
check(proof, PROOF, "proof");
const fraction = JSON.stringify(record).includes(`{"${NUMBER}":`);
need(!fraction, "a number of the record is not whole: examples/check_proof.py reads it");
let known;
try {
  known = identities(record);
} catch {
  fail('no record: ["text", [["text", "..."]]] is one, see docs/proof-format.md');
}
const rows = [proof, ...(proof.also ?? [])], { tree, manifests } = proof;
need(rows.every((row) => row.leaves.length === 1), "not a proof: leaves of a row are not one");
let made, trained, head, input;
try {
  [made, trained] = [manifests.training_mixture, manifests.fine_tuned_model].map((text) => parse(text).predicate);
  [head, input] = [made.figures.records, trained.input_manifests.training_mixture];
} catch {
  fail("not a proof: a manifest that names no root, or no mixture");
}
need(made.stage === "training_mixture" && trained.stage === "fine_tuned_model", "a manifest is of another stage");
need(["root", "size", "key"].every((name) => head?.[name] === tree[name]), "the mixture has another tree");
let named = rows.filter((row) => row.identity === known.at(-1)); // a source may read it otherwise
named = named.length ? named : rows.filter((row) => row.identity === known[0]);
need(named.length && named.every((row) => root(row, tree.size) === tree.root), "the record is not in the mixture");
need(new Set(named.map((row) => row.leaves[0].index)).size === named.length, "one row is shown twice");
need(sha(manifests.training_mixture).toString("hex") === input, "the model was trained on another mixture");
for (const row of named) console.log("in:", row.facts);
if (named[0].identity !== known.at(-1))
  console.log("not checked: that it is this very record: identity 1 does not tell 10⁶ from 106, a call from none");
if (named.length < rows.length) console.log("not checked:", rows.length - named.length, "rows that were read otherwise");
if (proof.through?.length)
  console.log("not checked: the manifests from the model that was asked about to this one, its parent");
console.log("manifest of the model:", sha(manifests.fine_tuned_model).toString("hex"));
