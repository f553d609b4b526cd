// Results as rows of pictures that fill the width, each as tall as its row; names are text, never markup.

import { show } from "./api.js";

const GAP = 10;
const BORDER = 2;
const ASPECTS = [0.35, 3.2];

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function outline(hit) {
  const [x, y, w, h] = hit.box;
  const made = element("span", "found");
  Object.assign(made.style, {
    left: `${(100 * x) / hit.width}%`, top: `${(100 * y) / hit.height}%`,
    width: `${(100 * w) / hit.width}%`, height: `${(100 * h) / hit.height}%`,
  });
  return made;
}

function score(hit) {
  const inliers = hit.inliers === undefined ? "" : `, ${hit.inliers} agree`;
  return hit.score.toFixed(3) + inliers;
}

function item(hit, rank, options) {
  const made = element("li");
  const link = element("a");
  link.href = options.link(hit);
  link.dataset.key = hit.key;
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    options.picked(hit);
  });
  const cell = element("span", "cell");
  const frame = element("span", "frame");
  const image = element("img");
  image.alt = "";
  image.decoding = "async";
  image.loading = rank > 24 ? "lazy" : "eager";
  image.addEventListener("error", () => image.replaceWith(element("span", "more", "no picture")), { once: true });
  frame.append(image);
  if (hit.box) frame.append(outline(hit));
  cell.append(frame);
  const caption = element("span", "caption");
  caption.append(element("b", "", `${rank}.`), ` ${score(hit)}`);
  const key = element("span", "key", hit.key);
  key.title = hit.key;
  key.dir = "auto";
  caption.append(key);
  const known = Object.entries(hit.metadata ?? {}).filter(([, value]) => value !== null);
  if (known.length) caption.append(element("span", "more", known.map(([name, value]) => `${name} ${value}`).join(", ")));
  if (options.only?.has(hit.key)) {
    made.classList.add("only");
    caption.append(element("span", "more note", options.note));
  }
  link.append(cell, caption);
  caption.append(element("span", "unseen", `${hit.box ? ", object outlined" : ""}; search with it`));
  made.append(link);
  show(image, hit.key, 512);
  return { made, cell, frame, aspect: Math.min(ASPECTS[1], Math.max(ASPECTS[0], hit.width / hit.height)), hit };
}

// Rows of about one height; the last one is not stretched.
function arrange(cells, width, tall) {
  let row = [];
  let sum = 0;
  const place = (height) => {
    for (const cell of row) {
      const across = Math.floor(height * cell.aspect * 100) / 100;
      cell.made.style.width = `${across + BORDER}px`;
      cell.cell.style.height = `${height}px`;
      // A picture beyond the usual shapes stands in its cell whole, so that outlines stay where they belong.
      const true_ = cell.hit.width / cell.hit.height;
      const w = Math.min(across, height * true_);
      Object.assign(cell.frame.style, { width: `${w}px`, height: `${w / true_}px` });
    }
    row = [];
    sum = 0;
  };
  const fitting = (count) => (width - GAP * (count - 1) - BORDER * count - 0.5) / sum;
  for (const cell of cells) {
    row.push(cell);
    sum += cell.aspect;
    const height = fitting(row.length);
    if (height <= tall) place(height);
  }
  if (row.length) place(Math.min(tall, fitting(row.length)));
}

export function grid(hits, options) {
  const list = element("ol", "grid");
  const cells = hits.map((hit, place) => item(hit, place + 1, options));
  list.append(...cells.map((cell) => cell.made));
  let before = 0;
  const watcher = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width === before || !width) return;
    before = width;
    arrange(cells, width, width < 520 ? 150 : 210);
  });
  watcher.observe(list);
  return list;
}

export function titled(title, hits, options) {
  const section = element("section");
  if (title) section.append(element("h3", "", title));
  section.append(grid(hits, options));
  return section;
}
