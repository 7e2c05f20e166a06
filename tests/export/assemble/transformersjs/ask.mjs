// node ask.mjs NODE_MODULES FOLDER: what transformers.js answers to the stored questions, run as its documentation says.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder] = process.argv.slice(2);
const library = path.join(modules, "@huggingface/transformers/dist/transformers.node.mjs");
const { AutoModelForImageTextToText, AutoProcessor, RawImage, env } = await import(pathToFileURL(library));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + path.sep;
const name = path.basename(folder);
const [processor, model] = [await AutoProcessor.from_pretrained(name), await AutoModelForImageTextToText.from_pretrained(name)];

const answers = [];
for (const { image, question } of JSON.parse(fs.readFileSync(path.join(folder, "questions/answers.json"), "utf8")).answers) {
  const content = [{ type: "image" }, { type: "text", text: question }];
  const prompt = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });
  const inputs = await processor(await RawImage.read(path.join(folder, "questions", image)), prompt);
  const output = await model.generate({ ...inputs, do_sample: false, max_new_tokens: 12 });
  answers.push(output.tolist()[0].slice(inputs.input_ids.dims[1]).map(Number));
}
console.log(JSON.stringify(answers));
