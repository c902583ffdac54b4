// What gradio's components do not do: buttons inside of messages, the dialog of a picture with its marks, Escape.
//
// gradio runs this once, with `trigger`, which sends an event to the server, and `props`: `value` is the conversation's key and
// language, `texts` the page's words in every language.

const texts = JSON.parse(props.texts);
const key = () => props.value.split(" ")[0];
const word = (name) => (texts[props.value.split(" ")[1]] ?? texts.en)[name];
const act = (action, more = {}) => trigger("act", { action, ...more });
const focusBox = () => document.querySelector("#box textarea")?.focus();

// a reload of this tab shows the conversation again; another tab has one of its own
watch("value", () => sessionStorage.setItem("limner", props.value));

window.limnerSave = (bridge) => {
  const link = document.createElement("a");
  link.href = `conversations/${bridge.split(" ")[0]}.zip`;
  link.download = "";
  link.click();
};

window.limnerSettings = () => document.querySelector("#panel .toggle-button").click();

// What gradio leaves out: a closed panel takes no focus, an opened one does, and messages are not labelled with all of their HTML.
function tidy() {
  const content = document.querySelector("#panel .sidebar-content");
  const closed = !document.querySelector("#panel.open");
  if (content && content.inert !== closed) {
    content.inert = closed;
    if (!closed) content.querySelector("input").focus({ preventScroll: true });
  }
  for (const message of document.querySelectorAll("#chat [data-testid][aria-label]")) {
    message.removeAttribute("aria-label");
    message.setAttribute("role", "article");
  }
}
new MutationObserver(tidy).observe(document.querySelector(".gradio-container"), {
  attributeFilter: ["aria-label", "class"],
  childList: true,
  subtree: true,
});

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- marks on a picture: boxes and brush strokes on a canvas of the picture's own size ----

const STEP = 0.03; // of the picture's side: what an arrow key moves a box by

class Marks {
  constructor(canvas, width, height) {
    Object.assign(canvas, { width, height });
    Object.assign(this, { canvas, width, height, tool: "box", box: null, strokes: [], drawing: null });
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.drawing = null));
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  at(event) {
    const place = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * this.width;
    const y = ((event.clientY - place.top) / place.height) * this.height;
    return [Math.min(this.width, Math.max(0, x)), Math.min(this.height, Math.max(0, y))];
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const point = this.at(event);
    if (this.tool === "box") this.drawing = this.box = [...point, ...point];
    else this.strokes.push((this.drawing = [point]));
    this.show();
  }

  go(event) {
    if (!this.drawing) return;
    const point = this.at(event);
    if (this.tool === "box") this.box.splice(2, 2, ...point);
    else this.drawing.push(point);
    this.show();
  }

  press(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!x && !y) return;
    event.preventDefault();
    const [dx, dy] = [x * STEP * this.width, y * STEP * this.height];
    this.box ??= [this.width / 3, this.height / 3, (this.width * 2) / 3, (this.height * 2) / 3];
    this.box = this.box.map((value, i) => {
      if (event.shiftKey && i < 2) return value;
      const side = i % 2 ? this.height : this.width;
      return Math.min(side, Math.max(0, value + (i % 2 ? dy : dx)));
    });
    this.show();
  }

  clear() {
    Object.assign(this, { box: null, strokes: [], drawing: null });
    this.show();
  }

  get isEmpty() {
    const [left, top, right, bottom] = this.box ?? [0, 0, 0, 0];
    return !this.strokes.length && (Math.abs(right - left) < 1 || Math.abs(bottom - top) < 1);
  }

  paint(context) {
    if (this.box) {
      const [left, top, right, bottom] = this.box;
      context.fillRect(left, top, right - left, bottom - top);
    }
    Object.assign(context, { lineWidth: Math.min(this.width, this.height) / 8, lineCap: "round", lineJoin: "round" });
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      for (const point of stroke) context.lineTo(...point);
      if (stroke.length === 1) context.lineTo(stroke[0][0] + 0.01, stroke[0][1]);
      context.stroke();
    }
  }

  show() {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    context.fillStyle = context.strokeStyle = getComputedStyle(this.canvas).accentColor;
    this.paint(context);
  }

  // A PNG file whose transparent part is to be edited, as in OpenAI's interface; empty where nothing is marked.
  mask() {
    if (this.isEmpty) return "";
    const canvas = make("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, this.width, this.height);
    context.globalCompositeOperation = "destination-out";
    this.paint(context);
    return canvas.toDataURL("image/png");
  }
}

// ---- the dialog of a picture ----

async function openPicture(name, source, label) {
  const picture = make("img", { src: source, alt: label });
  await picture.decode();
  const found = await (await fetch(source.replace(/png$/, "json"))).json();
  const canvas = make("canvas", { tabindex: 0, role: "img", "aria-label": word("canvas") });
  const marks = new Marks(canvas, picture.naturalWidth, picture.naturalHeight);
  const dialog = make("dialog", { id: "picture", "aria-label": word("picture") });
  const done = (action, more) => {
    dialog.close();
    act(action, { value: name, ...more });
    focusBox();
  };
  const tool = (own) => {
    const press = () => {
      marks.tool = own;
      for (const each of tools) each.setAttribute("aria-pressed", each.name === own);
    };
    return make("button", { type: "button", name: own, "aria-pressed": own === "box", onclick: press }, word(own));
  };
  const tools = [tool("box"), tool("brush")];
  const erase = make("button", { type: "button", name: "erase", onclick: () => marks.clear() }, word("erase"));
  const input = make("input", { id: "change", name: "text", autocomplete: "off", required: "", placeholder: word("change_hint") });
  const change = (event) => {
    event.preventDefault();
    done("change", { text: input.value, mask: marks.mask() });
  };
  const form = make(
    "form",
    { onsubmit: change },
    make("label", { for: "change" }, word("change_label")),
    make("div", { class: "line" }, input, make("button", { class: "main" }, word("change"))),
    make("p", { class: "hint" }, word("region_hint")),
  );
  const more = make(
    "div",
    { class: "line" },
    make("button", { type: "button", name: "reference", onclick: () => (dialog.close(), attach(source)) }, word("reference")),
    make("button", { type: "button", name: "variations", onclick: () => done("variations") }, word("variations")),
    make("a", { href: source, download: `limner-${name.slice(0, 8)}.png`, role: "button" }, word("download")),
  );
  const told = make("dl");
  for (const [title, value] of Object.entries(found.shown ?? {})) {
    told.append(make("dt", {}, word(title)), make("dd", {}, String(value)));
  }
  if (found.prompt) {
    more.append(make("button", { type: "button", name: "reuse", onclick: () => done("reuse") }, word("reuse")));
  }
  const close = make("button", { type: "button", class: "close", "aria-label": word("close"), onclick: () => dialog.close() }, "×");
  dialog.append(
    make("div", { class: "stage" }, make("div", { class: "frame" }, picture, canvas), make("div", { class: "line" }, ...tools, erase)),
    make("div", { class: "side" }, form, more, told),
    close,
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".gradio-container").append(dialog);
  dialog.showModal();
  input.focus();
}

// A picture of the conversation goes with the next message, as if it had been dropped on the box.
async function attach(source) {
  const data = new DataTransfer();
  data.items.add(new File([await (await fetch(source)).blob()], "picture.png", { type: "image/png" }));
  const box = document.querySelector("#box .full-container");
  box.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  focusBox();
}

document.addEventListener("click", (event) => {
  const pressed = event.target.closest?.("#chat button[name], #banner button[name]");
  if (!pressed) return;
  if (pressed.name === "open") {
    const picture = pressed.querySelector("img");
    openPicture(pressed.value, picture.src, picture.alt);
    return;
  }
  act(pressed.name, { value: pressed.value });
  if (["edit", "cancel"].includes(pressed.name)) focusBox();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (event.target.closest("#panel.open")) {
    window.limnerSettings();
    document.querySelector("#settings-button").focus();
  } else trigger("halt");
});
