// The page: shows what worker.mjs says, and hands on what the reader chooses and asks.

const $ = (id) => document.getElementById(id);
const device = new URLSearchParams(location.search).get("device") === "webgpu" ? "webgpu" : "wasm";
const RATED = 8; // tokens of an answer whose rate is worth a figure
const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };

let grid = [1, 1];
let image = null; // the name of what is shown
let answer = null; // the element that is being written to

const worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
const duration = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`);

function state(text, wrong = false) {
  $("state").textContent = text;
  $("state").classList.toggle("wrong", wrong);
}

function allow() {
  const ready = image !== null && answer === null;
  $("question").disabled = image === null;
  $("send").disabled = image === null;
  $("send").textContent = answer ? "Stop" : "Ask";
  if (ready && !matchMedia("(pointer: coarse)").matches) $("question").focus();
}

function element(kind, name, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  return made;
}

const heard = {
  missing() {
    $("progress").hidden = true;
    state("transformers.js is not in this folder. Put it there with: npm install @huggingface/transformers@4", true);
  },
  loading({ loaded, total }) {
    $("progress").value = total ? Math.min(1, loaded / total) : 0;
    state(`Opening the model, ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
  },
  ready({ about: { model, method, keep, grid: given }, version }) {
    $("progress").hidden = true;
    grid = given;
    $("model").textContent = model;
    $("method").textContent = `${method} keeps ${keep} of ${grid[0] * grid[1]} image tokens`;
    document.title = `${model}: ask about an image`;
    $("file").disabled = false;
    offer();
    state(`transformers.js ${version} on ${NAMES[device]}`);
  },
  seen({ picture: { data, height, width }, kept, encoder_ms }) {
    const canvas = $("picture");
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
    canvas.hidden = false;
    $("frame").className = "full";
    $("frame").style.aspectRatio = `${width} / ${height}`;

    const [rows, columns] = grid;
    const chosen = new Set(kept);
    let path = "";
    for (let at = 0; at < rows * columns; ++at) {
      if (!chosen.has(at)) path += `M${at % columns} ${Math.floor(at / columns)}h1v1h-1z`;
    }
    $("dropped").setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    $("dropped").firstElementChild.setAttribute("d", path);
    $("kept").textContent = `${kept.length} of ${rows * columns} patches, ${duration(encoder_ms)}`;
    $("tools").hidden = false;
    allow();
  },
  text(text) {
    answer.firstElementChild.textContent = (answer.firstElementChild.textContent + text).trimStart();
    answer.scrollIntoView({ block: "nearest" });
  },
  answered({ tokens, prompt, first_ms, tokens_per_s }) {
    const rate = tokens < RATED ? "" : ` · ${tokens_per_s.toFixed(tokens_per_s < 10 ? 1 : 0)} tokens a second`;
    answer.append(element("small", "", `${prompt} tokens read, first word after ${duration(first_ms)}${rate}`));
    answer.classList.remove("open");
    answer.scrollIntoView({ block: "nearest" });
    answer = null;
    allow();
  },
  checked({ equal, of, all }) {
    $("check").textContent = of < all ? `checking, ${of} of ${all}` : "check again";
    $("check").disabled = of < all;
    if (of === all) state(`${equal} of ${all} answers are torch's, on ${NAMES[device]}`, equal < all);
  },
  failed({ at, why }) {
    $("progress").hidden = true;
    if (answer) answer.remove();
    answer = null;
    if (at === "see") image = null;
    if (at === "check") $("check").disabled = false;
    state({ load: "The model does not open: ", see: "No image: ", ask: "No answer: ", check: "Not checked: " }[at] + why, true);
    $("state").scrollIntoView({ block: "nearest" });
    allow();
  },
};

worker.onmessage = ({ data }) => Object.entries(data).forEach(([name, value]) => heard[name](value));
worker.onerror = (event) => heard.failed({ at: "load", why: event.message ?? "worker.mjs is not beside this page" });
worker.postMessage({ load: device });

function show(file) {
  if (!file || $("file").disabled || answer) return;
  image = file.name || "pasted image";
  $("log").replaceChildren();
  $("kept").textContent = "Encoding";
  worker.postMessage({ see: file });
}

/** The pictures that torch was asked about when the model was assembled, to try, and to check against. */
async function offer() {
  const found = await fetch("questions/answers.json").catch(() => null);
  if (!found?.ok) return;
  const stored = await found.json();
  for (const name of new Set(stored.answers.map(({ image }) => image))) {
    const made = $("examples").appendChild(element("button", ""));
    made.type = "button";
    made.append(Object.assign(new Image(), { src: `questions/${name}`, alt: name, title: name }));
    made.addEventListener("click", async () => {
      const picture = await (await fetch(`questions/${name}`)).blob();
      show(new File([picture], name, { type: picture.type }));
    });
  }
  $("check").hidden = false;
  $("check").addEventListener("click", () => {
    $("check").disabled = true;
    worker.postMessage({ check: stored });
  });
}

$("file").addEventListener("change", () => show($("file").files[0]));
addEventListener("paste", (event) => show([...event.clipboardData.files].find(({ type }) => type.startsWith("image/"))));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  show(event.dataTransfer.files[0]);
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (answer) return worker.postMessage({ stop: true });
  const question = $("question").value.trim();
  if (!question) return;
  $("question").value = "";
  const turn = element("article", "turn");
  answer = element("div", "answer open");
  answer.append(element("p", ""));
  turn.append(element("p", "question", question), answer);
  $("log").append(turn);
  turn.scrollIntoView({ block: "nearest" });
  allow();
  worker.postMessage({ ask: question });
});

$("whole").addEventListener("click", () => {
  const whole = $("frame").classList.toggle("whole");
  $("whole").setAttribute("aria-pressed", String(whole));
  $("whole").textContent = whole ? "show kept" : "show all";
});

if (await navigator.gpu?.requestAdapter().catch(() => null)) {
  $("where").hidden = false;
  $("device").value = device;
  $("device").addEventListener("change", () => (location.search = `device=${$("device").value}`));
}
