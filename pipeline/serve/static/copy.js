// A small copy of a picture as text, and back: what a link takes along of a picture that is nowhere but here.

const SIDE = 320;

// Returns the text, and by how much the copy is smaller: a box shrinks with it.
export async function toText(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const small = new Uint8Array(await (await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 })).arrayBuffer());
  let text = "";
  for (const one of small) text += String.fromCharCode(one);
  return { text: btoa(text).replaceAll("+", "-").replaceAll("/", "_"), scale };
}

// Fails when the text is not the whole of a picture.
export async function fromText(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/jpeg" });
  await createImageBitmap(blob);
  return blob;
}
