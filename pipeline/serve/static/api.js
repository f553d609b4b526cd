// Asking the service: fetch with the token where one is wanted, and errors as one line.

const TOKEN = "sightline-token";

export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

let askForToken = async () => null;

export function onToken(ask) {
  askForToken = ask;
}

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export function hasToken() {
  return Boolean(sessionStorage.getItem(TOKEN));
}

async function fetched(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the service cannot be reached; is it still running?");
  }
  if (response.status === 401) {
    const wrong = hasToken();
    sessionStorage.removeItem(TOKEN);
    const token = await askForToken(wrong);
    if (token) {
      sessionStorage.setItem(TOKEN, token);
      return fetched(path, options);
    }
  }
  if (!response.ok) {
    let reason = `the service answered ${response.status}`;
    try {
      reason = (await response.json()).error ?? reason;
    } catch {
      // Not ours: a proxy's page, perhaps.
    }
    throw new Refused(response.status, reason);
  }
  return response;
}

export async function about() {
  return (await fetched("/snapshot")).json();
}

function parameters(settings) {
  return Object.entries(settings).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
}

export async function searchImage(blob, box, settings, signal) {
  const form = new FormData();
  form.append("image", blob, "query");
  if (box) form.append("box", box.join(","));
  for (const [name, value] of parameters(settings)) form.append(name, value);
  return (await fetched("/search", { method: "POST", body: form, signal })).json();
}

export async function searchKey(key, box, settings, signal) {
  const query = new URLSearchParams(parameters(settings));
  if (box) query.set("box", box.join(","));
  return (await fetched(`/similar/${encodeURIComponent(key)}?${query}`, { signal })).json();
}

export function pictureOf(key, size) {
  return `/images/${encodeURIComponent(key)}?size=${size}`;
}

// An <img> cannot send a token: where there is one, the picture is fetched and shown from memory.
export async function show(image, key, size, wanted = () => true) {
  if (!hasToken()) {
    image.src = pictureOf(key, size);
    return;
  }
  try {
    const blob = await (await fetched(pictureOf(key, size))).blob();
    if (!wanted()) return;
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    image.src = URL.createObjectURL(blob);
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}
