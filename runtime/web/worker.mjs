// The model, in a thread of its own so that the page stays alive: transformers.js, opened on the folder beside this file.
//
//   in    {load: device}  {see: Blob}  {ask: question}  {check: what torch answered}  {stop: true}
//   out   {missing}  {loading: {loaded, total}}  {ready}  {seen}  {text}  {answered}  {checked}  {failed: {at, why}}
//
// An image is encoded once, however often it is asked about. Nothing is fetched from anywhere but this folder.

const here = (path) => new URL(path, import.meta.url).href;
const LIBRARY = here("node_modules/@huggingface/transformers/dist/transformers.min.js");
const ENGINE = here("node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify");
const ANSWER_TOKENS = 256;

let library, processor, model, stopping;
let seen = null; // {image, features} of the image that is shown

const say = (message, moved = []) => postMessage(message, moved);

async function load(device) {
  try {
    library = await import(LIBRARY);
  } catch {
    return say({ missing: { library: LIBRARY } });
  }
  const { AutoModelForImageTextToText, AutoProcessor, InterruptableStoppingCriteria, env } = library;
  env.allowLocalModels = true;
  env.allowRemoteModels = false;
  env.useBrowserCache = false; // what the server gives now, not what it gave last week under the same name
  env.backends.onnx.wasm.wasmPaths = { mjs: `${ENGINE}.mjs`, wasm: `${ENGINE}.wasm` };

  let loaded = 0, total = 0; // progress_callback would fetch each local file twice, once for its size
  env.fetch = async (...asked) => {
    const answer = await fetch(...asked);
    if (!answer.ok || !answer.body) return answer;
    total += Number(answer.headers.get("content-length") ?? 0);
    const counted = new TransformStream({
      transform(part, on) {
        loaded += part.byteLength;
        say({ loading: { loaded, total } });
        on.enqueue(part);
      },
    });
    const { headers, status } = answer;
    return new Response(answer.body.pipeThrough(counted), { headers, status });
  };
  const [about, opened, read] = await Promise.all([
    fetch(here("page.json")).then((answer) => answer.json()),
    AutoModelForImageTextToText.from_pretrained("./", {
      device: { vision_encoder: device, embed_tokens: "wasm", decoder_model_merged: device }, // a lookup, of float16 as well
    }),
    AutoProcessor.from_pretrained("./"),
  ]);
  model = opened;
  processor = read;
  stopping = new InterruptableStoppingCriteria();
  model.encode_image = async () => seen.features;
  const forward = model.forward.bind(model);
  model.forward = async (inputs) => {
    await new Promise((resume) => setTimeout(resume)); // between two tokens: else no {stop} would ever be read
    return forward(inputs);
  };
  say({ ready: { about, device, version: env.version } });
}

async function encode(blob) {
  const image = await library.RawImage.fromBlob(blob);
  const { pixel_values } = await processor.image_processor(image);
  const began = performance.now();
  const { image_features, indices } = await model.sessions.vision_encoder.run({ pixel_values: pixel_values.ort_tensor });
  const encoder_ms = performance.now() - began;
  seen = { image, features: new library.Tensor(image_features) };
  return { pixel_values, kept: Array.from(indices.data), encoder_ms };
}

async function see(blob) {
  const { pixel_values, kept, encoder_ms } = await encode(blob);
  const [, , height, width] = pixel_values.dims;
  const picture = { data: shown(pixel_values), height, width };
  say({ seen: { picture, kept, encoder_ms } }, [picture.data.buffer]);
}

/** What the encoder is given, as the eye sees it: [1, 3, H, W] normalised -> RGBA bytes. */
function shown({ data, dims: [, , height, width] }) {
  const { do_normalize, image_mean, image_std, do_rescale, rescale_factor } = processor.image_processor.config;
  const area = height * width;
  const bytes = new Uint8ClampedArray(4 * area).fill(255);
  for (let channel = 0; channel < 3; ++channel) {
    const [mean, std] = do_normalize ? [image_mean[channel], image_std[channel]] : [0, 1];
    const unit = do_rescale === false ? 1 : rescale_factor ?? 1 / 255;
    for (let at = 0; at < area; ++at) bytes[4 * at + channel] = (data[channel * area + at] * std + mean) / unit;
  }
  return bytes;
}

/** A question as the decoder reads it, K placeholders and all. */
async function prompted(question) {
  const content = [{ type: "image" }, { type: "text", text: question }];
  const prompt = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });
  const start = processor.tokenizer.bos_token; // a template that writes it itself means it to stand there once
  const inputs = await processor(seen.image, prompt, { add_special_tokens: !(start && prompt.startsWith(start)) });
  return { inputs, length: inputs.input_ids.dims.at(-1) };
}

async function ask(question) {
  const { inputs, length } = await prompted(question);
  const context = model.config.text_config.max_position_embeddings ?? Infinity;
  if (length >= context) throw new Error(`the prompt has ${length} tokens, the model reads ${context}: ask less at once`);

  stopping.reset();
  const times = [];
  const streamer = new library.TextStreamer(processor.tokenizer, {
    skip_prompt: true,
    callback_function: (text) => text && say({ text }),
    token_callback_function: () => times.push(performance.now()),
  });
  const began = performance.now();
  await model.generate({
    ...inputs,
    do_sample: false,
    max_new_tokens: Math.min(ANSWER_TOKENS, context - length),
    stopping_criteria: stopping,
    streamer,
  });
  const first_ms = times[0] - began;
  const rate = times.length > 1 ? (1000 * (times.length - 1)) / (times.at(-1) - times[0]) : null;
  say({ answered: { tokens: times.length, prompt: length, first_ms, tokens_per_s: rate } });
}

/** The stored questions again, greedily: how many answers are torch's, id by id. What is shown stays as it is. */
async function check({ longest, answers }) {
  const shown = seen;
  let [equal, name] = [0, null];
  for (const [at, { image, question, ids }] of answers.entries()) {
    if (image !== name) await encode(await (await fetch(here(`questions/${(name = image)}`))).blob());
    const { inputs, length } = await prompted(question);
    const output = await model.generate({ ...inputs, do_sample: false, max_new_tokens: longest });
    const said = output.tolist()[0].slice(length).map(Number);
    equal += said.length === ids.length && said.every((id, place) => id === ids[place]);
    say({ checked: { equal, of: at + 1, all: answers.length } });
  }
  seen = shown;
}

let before = Promise.resolve(); // one thing after the other
onmessage = ({ data }) => {
  if (data.stop) return stopping?.interrupt();
  const [[at, given]] = Object.entries(data);
  before = before
    .then(() => ({ load, see, ask, check })[at](given))
    .catch((error) => say({ failed: { at, why: String(error?.message ?? error) } }));
};
