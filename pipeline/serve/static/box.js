// A box on the query picture, in its own pixels: drawn with a pointer, moved and sized by keys, or typed.

export class BoxEditor {
  constructor(canvas, image, box, fields, { changed, shown }) {
    Object.assign(this, { canvas, image, box, fields, changed, shown });
    this.size = [1, 1];
    this.value = null;
    this.start = null;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", () => this.#cancel());
    box.addEventListener("keydown", (event) => this.#key(event));
    fields.forEach((field) => field.addEventListener("change", () => this.#typed()));
  }

  // A picture of another size; the box goes.
  reset(width, height, value = null) {
    this.size = [width, height];
    this.fields.forEach((field, place) => (field.max = this.size[place % 2]));
    this.set(value, false);
  }

  set(value, told = true) {
    this.value = value && this.#within(value);
    this.#draw();
    if (told) this.changed(this.value);
  }

  // A box in the middle, for those who do not draw.
  add() {
    const [width, height] = this.size;
    this.set([width / 4, height / 4, width / 2, height / 2]);
    this.box.focus();
  }

  #within([x, y, w, h]) {
    const [width, height] = this.size;
    x = Math.min(Math.max(0, x), width - 1);
    y = Math.min(Math.max(0, y), height - 1);
    return [x, y, Math.min(Math.max(1, w), width - x), Math.min(Math.max(1, h), height - y)].map(Math.round);
  }

  #draw() {
    this.box.hidden = !this.value;
    this.shown(this.value);
    this.fields.forEach((field, place) => (field.value = this.value ? this.value[place] : ""));
    if (!this.value) return;
    const [x, y, w, h] = this.value;
    const [width, height] = this.size;
    Object.assign(this.box.style, {
      left: `${(100 * x) / width}%`, top: `${(100 * y) / height}%`,
      width: `${(100 * w) / width}%`, height: `${(100 * h) / height}%`,
    });
    this.box.setAttribute("aria-label", `Box on the picture: ${w} by ${h} pixels at ${x}, ${y}`);
  }

  #at(event) {
    const place = this.image.getBoundingClientRect();
    return [
      ((event.clientX - place.left) / place.width) * this.size[0],
      ((event.clientY - place.top) / place.height) * this.size[1],
    ];
  }

  #down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.start = { at: this.#at(event), moving: event.target === this.box ? [...this.value] : null, before: this.value };
  }

  #move(event) {
    if (!this.start) return;
    const [x, y] = this.#at(event);
    const [x0, y0] = this.start.at;
    if (this.start.moving) {
      const [left, top, w, h] = this.start.moving;
      const most = [this.size[0] - w, this.size[1] - h];
      this.set([Math.min(Math.max(0, left + x - x0), most[0]), Math.min(Math.max(0, top + y - y0), most[1]), w, h], false);
    } else if (Math.hypot(x - x0, y - y0) > this.size[0] / 100) {
      const [left, top] = [Math.max(0, Math.min(x, x0)), Math.max(0, Math.min(y, y0))];
      this.set([left, top, Math.max(x, x0) - left, Math.max(y, y0) - top], false);
    }
  }

  #up() {
    if (!this.start) return;
    const before = this.start.before;
    this.start = null;
    if (String(before) !== String(this.value)) this.changed(this.value);
  }

  #cancel() {
    if (this.start) this.set(this.start.before, false);
    this.start = null;
  }

  #key(event) {
    const step = event.ctrlKey ? 1 : Math.max(1, Math.round(this.size[0] / 50));
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      this.set(null);
    } else if (way && this.value) {
      event.preventDefault();
      const [x, y, w, h] = this.value;
      const [dx, dy] = way;
      if (event.shiftKey) this.set([x, y, w + dx, h + dy]);
      else this.set([Math.min(Math.max(0, x + dx), this.size[0] - w), Math.min(Math.max(0, y + dy), this.size[1] - h), w, h]);
    }
  }

  #typed() {
    const numbers = this.fields.map((field) => Number.parseFloat(field.value));
    if (numbers.every(Number.isFinite)) this.set(numbers);
  }
}
