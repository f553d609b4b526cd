// The page: what is asked, what is shown, and the address bar that says both. See the modules that it imports.

import { Refused, about, onToken, searchImage, searchKey, show } from "./api.js";
import { BoxEditor } from "./box.js";
import { fromText, toText } from "./copy.js";
import { titled } from "./grid.js";
import { theme } from "./theme.js";

const at = (id) => document.getElementById(id);
const VERIFIED = 100;
const state = { blob: null, key: null, about: null, asked: 0, answers: [] };
let running = new AbortController();

const editor = new BoxEditor(
  at("canvas"), at("query-image"), at("box"), ["box-x", "box-y", "box-w", "box-h"].map(at),
  {
    changed: () => { if (state.about) search(); },
    shown: (value) => {
      at("box-clear").disabled = !value;
      at("box-new").disabled = Boolean(value);
    },
  },
);

// What is asked -----------------------------------------------------------------------------------------------------

function settings() {
  return {
    k: at("k").value || "24", index: at("index").value, rerank: at("rerank").value, effort: at("effort").value,
    where: at("where").value.trim(), locate: at("locate").checked && !at("locate-field").hidden,
    verify: at("verify").checked && !at("verify-field").hidden ? VERIFIED : "",
  };
}

function tell(text) {
  at("status").textContent = text;
}

function fail(error) {
  if (error.name === "AbortError") return;
  at("error").textContent = error instanceof Refused ? error.message : `this page failed: ${error.message}`;
  at("error").hidden = false;
  tell("");
  at("lists").replaceChildren();
}

function indexOf(kind) {
  return state.about.indexes.find((one) => one.kind === kind);
}

async function search({ remember = true } = {}) {
  if (!state.blob && state.key === null) {
    fail(new Refused(0, "choose a picture first"));
    return;
  }
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const mine = settings();
  at("error").hidden = true;
  at("lists").classList.add("waiting");
  document.body.classList.add("busy");
  tell("Searching …");
  if (remember) history.pushState(null, "", address(state.key, editor.value));
  try {
    const exact = state.about.indexes.find((one) => one.exact)?.kind;
    const asks = [mine];
    if (at("compare").checked && exact && exact !== mine.index) asks.push({ ...mine, index: exact, rerank: "", effort: "" });
    const ask = (one) => (state.key === null
      ? searchImage(state.blob, editor.value, one, signal) : searchKey(state.key, editor.value, one, signal));
    const started = performance.now();
    let answers = await Promise.all(asks.map(ask));
    // A snapshot may have been taken up between the two: they are compared on one only.
    for (let again = 0; again < 3 && new Set(answers.map((one) => one.snapshot)).size > 1; again += 1) {
      answers = await Promise.all(asks.map(ask));
    }
    state.answers = answers;
    sized(answers[0].query);
    present(answers, performance.now() - started);
    at("share").disabled = false;
  } catch (error) {
    fail(error);
  } finally {
    if (signal === running.signal) {
      at("lists").classList.remove("waiting");
      document.body.classList.remove("busy");
    }
  }
}

// What is shown -----------------------------------------------------------------------------------------------------

// The service knows the picture's size after its turn; the box is in those pixels.
function sized({ width, height }) {
  if (editor.size[0] !== width || editor.size[1] !== height) editor.reset(width, height, editor.value);
}

function present(answers, took) {
  const lists = at("lists");
  const options = { picked: (hit) => useKey(hit.key), link: (hit) => address(hit.key, null) };
  const [first, second] = answers;
  const hits = first.hits.length;
  const count = hits === 1 ? "1 result" : `${hits} results`;
  let line = `${hits ? count : "No results"} of snapshot ${first.snapshot} by ${first.index}, in ${Math.round(took)} ms`;
  lists.classList.toggle("two", Boolean(second));
  if (second) {
    const mine = new Set(first.hits.map((hit) => hit.key));
    const truth = new Set(second.hits.map((hit) => hit.key));
    const missed = new Set([...truth].filter((key) => !mine.has(key)));
    const extra = new Set([...mine].filter((key) => !truth.has(key)));
    const share = truth.size ? (truth.size - missed.size) / truth.size : 1;
    line += `; it finds ${(100 * share).toFixed(0)} % of what ${second.index} finds`;
    lists.replaceChildren(
      titled(`${first.index}, approximate`, first.hits, { ...options, only: extra, note: "not in the exact result" }),
      titled(`${second.index}, exact`, second.hits, { ...options, only: missed, note: `missed by ${first.index}` }),
    );
  } else {
    lists.replaceChildren(titled("", first.hits, options));
  }
  tell(line);
}

async function showQuery(name) {
  const image = at("query-image");
  const url = state.blob ? URL.createObjectURL(state.blob) : null;
  at("drop").classList.add("filled");
  at("query").hidden = false;
  at("box-row").hidden = false;
  at("query-name").textContent = name;
  if (url) {
    image.addEventListener("load", () => {
      if (state.blob) editor.reset(image.naturalWidth, image.naturalHeight, editor.value);
      URL.revokeObjectURL(url);
    }, { once: true });
    image.src = url;
  } else {
    const key = state.key;
    await show(image, key, 1024, () => state.key === key);
  }
}

function useBlob(blob, name, { box = null, remember = true } = {}) {
  if (blob.type && !blob.type.startsWith("image/")) {
    fail(new Refused(0, `${name} is no picture`));
    return;
  }
  const most = state.about?.limits.body_bytes ?? Infinity;
  if (blob.size + 4096 > most) {
    fail(new Refused(0, `${name} has ${blob.size} bytes, and the service takes ${most}; make it smaller`));
    return;
  }
  Object.assign(state, { blob, key: null });
  editor.reset(1e9, 1e9, box);
  showQuery(name);
  search({ remember });
}

function useKey(key, { box = null, remember = true } = {}) {
  Object.assign(state, { blob: null, key });
  editor.reset(1e9, 1e9, box);
  showQuery(key);
  at("results").scrollIntoView({ block: "nearest" });
  search({ remember });
}

// The address -------------------------------------------------------------------------------------------------------

const CHECKS = ["locate", "verify", "compare"];
const FIELDS = ["k", "index", "rerank", "effort", "where"];

function address(key, box, image = "") {
  const query = new URLSearchParams();
  if (key !== null) query.set("key", key);
  if (box) query.set("box", box.join(","));
  for (const name of FIELDS) if (at(name).value) query.set(name, at(name).value);
  for (const name of CHECKS) if (at(name).checked) query.set(name, "1");
  return `/?${query}${image ? `#image=${image}` : ""}`;
}

function restore() {
  const query = new URLSearchParams(location.search);
  for (const name of FIELDS) {
    const usual = { k: "24", index: state.about.indexes[0]?.kind ?? "" }[name] ?? "";
    at(name).value = query.has(name) && (name !== "index" || indexOf(query.get(name))) ? query.get(name) : usual;
  }
  for (const name of CHECKS) at(name).checked = query.get(name) === "1";
  described();
  const numbers = (query.get("box") ?? "").split(",").map(Number.parseFloat);
  const box = numbers.length === 4 && numbers.every(Number.isFinite) ? numbers : null;
  const image = new URLSearchParams(location.hash.slice(1)).get("image");
  if (query.has("key")) {
    useKey(query.get("key"), { box, remember: false });
  } else if (image) {
    fromText(image).then((blob) => useBlob(blob, "a picture from a link", { box, remember: false }), () => {
      fail(new Refused(0, "the link is cut short: its picture is not whole"));
    });
  }
}

async function link() {
  if (state.key !== null) return new URL(address(state.key, editor.value), location.href).href;
  const { text, scale } = await toText(state.blob);
  return new URL(address(null, editor.value?.map((value) => Math.round(value * scale)), text), location.href).href;
}

async function share() {
  const url = await link();
  const note = state.key === null ? "; it holds a small copy of the picture" : "";
  try {
    await navigator.clipboard.writeText(url);
    tell(`The link is copied${note}.`);
  } catch {
    history.replaceState(null, "", url);
    tell(`The link is in the address bar${note}.`);
  }
}

// Beginning ---------------------------------------------------------------------------------------------------------

function described() {
  const kind = indexOf(at("index").value);
  if (!kind) return;
  at("rerank-field").hidden = kind.exact;
  at("effort-field").hidden = !kind.effort;
  at("effort-name").textContent = kind.effort || "Effort";
  at("effort").placeholder = kind.usual ?? "";
  const exact = state.about.indexes.some((one) => one.exact);
  at("compare-field").hidden = kind.exact || !exact;
}

async function open() {
  const known = await about();
  state.about = known;
  at("about").textContent =
    `${known.images.toLocaleString("en")} images, snapshot ${known.snapshot} of ${known.created_at.slice(0, 10)}, ${known.descriptor}`;
  at("index").replaceChildren(...known.indexes.map((one) => new Option(one.exact ? `${one.kind} (exact)` : one.kind, one.kind)));
  at("k").max = known.limits.k;
  at("locate-field").hidden = !known.can_locate;
  at("verify-field").hidden = !known.can_verify;
  const columns = Object.entries(known.metadata).map(([name, kind]) => `${name} (${kind})`);
  at("where-field").hidden = !columns.length;
  at("where-help").textContent = `Columns: ${columns.join(", ")}`;
  described();
  if (!known.can_query_images) tell("The vectors of this collection were made elsewhere: search with its own images, by links.");
  restore();
}

function pasted(event) {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    useBlob(file, "the pasted picture");
  }
}

function dropped(event) {
  event.preventDefault();
  at("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) useBlob(file, file.name);
}

onToken((wrong) => new Promise((resolve) => {
  const dialog = at("login");
  at("wrong-token").hidden = !wrong;
  at("token").value = "";
  dialog.addEventListener("close", () => resolve(at("token").value.trim() || null), { once: true });
  if (!dialog.open) dialog.showModal();
}));

theme(at("theme"), false);
// On a phone the settings would push the results out of sight.
at("how").open = window.matchMedia("(min-width: 761px)").matches;
at("theme").addEventListener("click", () => theme(at("theme"), true));
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) useBlob(file, file.name);
  at("file").value = "";
});
document.addEventListener("paste", pasted);
document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", dropped);
at("ask").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("index").addEventListener("change", () => { at("effort").value = ""; described(); });
for (const name of ["index", "rerank", "effort", "where", "k", ...CHECKS]) {
  at(name).addEventListener("change", () => { if (state.blob || state.key !== null) search(); });
}
at("box-clear").addEventListener("click", () => editor.set(null));
at("box-new").addEventListener("click", () => editor.add());
at("share").addEventListener("click", () => share().catch(fail));
window.addEventListener("popstate", () => { if (new URLSearchParams(location.search).has("key")) restore(); });
open().catch(fail);
