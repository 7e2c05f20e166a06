// edgeprune-ask MODEL IMAGE QUESTION [MOST]: a whole model without Python. The encoder of the bundle runs in libedgeprune,
// the decoder behind it in onnxruntime-genai.
//
// MODEL: what `edgeprune assemble --engine genai` wrote. IMAGE: a PPM image, or - for one from standard input:
//     convert photo.jpg ppm:- | edgeprune-ask my-model - "what color is the car?"
// MOST: ids of the answer; default 256. EDGEPRUNE_GENAI names onnxruntime-genai's library, EDGEPRUNE_ONNXRUNTIME that of
// ONNX Runtime, where the system does not find them.
//
// For an application to begin with: one image that is no mosaic of tiles, one question, the likeliest answer.
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "../camera/frames.hpp"
#include "edgeprune.hpp"
#include "genai.hpp"

namespace {

using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

// manifest.json of the model: what a prompt needs beside the chat template.
Json read_manifest(const std::string &folder) {
    std::ifstream file(folder + "/manifest.json", std::ios::binary);
    const Json manifest = Json::parse(file, nullptr, false);
    if (!manifest.is_object() || manifest.value("kind", "") != "model" || manifest.value("engine", "") != "genai")
        throw std::runtime_error(folder + " must be a model for genai; make one with `edgeprune assemble --engine genai`");
    return manifest;
}

// One image alone, as edgeprune_run takes it: of a batch that is larger, the same image in every place.
edgeprune::Memory encode(edgeprune::Bundle &bundle, const std::string &image) {
    Frame frame;
    if (!open_stream(image)->next(frame)) throw std::runtime_error(image + " must be a PPM image, it is empty");
    const edgeprune_info info = bundle.info();
    if (info.tiles != 1 || info.batch != 1)
        throw std::runtime_error("this example takes a bundle of one image a run, not of tiles or several; see edgeprune.h");
    auto pixels = bundle.memory("pixel_values"), tokens = bundle.memory("tokens");
    bundle.preprocess(frame.rgb.data(), frame.width, frame.height, 0, pixels);
    bundle.run({pixels}, {tokens});
    return tokens;
}

// The placeholder of the image -> as many image ids as it has tokens: genai answers, wrongly, with one too few.
Ids expanded(const Ids &ids, const Json &prompt, std::size_t count) {
    const auto placeholder = prompt.at("placeholder").get<std::int32_t>();
    if (std::count(ids.begin(), ids.end(), placeholder) != 1)
        throw std::runtime_error("the question must have no placeholder of an image: the chat template writes it");
    Ids found;
    for (const std::int32_t id : ids) {
        if (id != placeholder) {
            found.push_back(id);
            continue;
        }
        const auto before = prompt.at("before").get<Ids>(), after = prompt.at("after").get<Ids>();
        found.insert(found.end(), before.begin(), before.end());
        found.insert(found.end(), count, prompt.at("image").get<std::int32_t>());
        found.insert(found.end(), after.begin(), after.end());
    }
    return found;
}

void ask(const std::string &folder, const std::string &image, const std::string &question, std::size_t most) {
    const Json manifest = read_manifest(folder);
    edgeprune::Bundle bundle(folder + "/encoder");
    edgeprune::Memory tokens = encode(bundle, image);
    const char *library = std::getenv("EDGEPRUNE_GENAI");
    const Decoder decoder(library ? library : "", folder);
    const auto count = static_cast<std::size_t>(tokens.tensor().shape[1]);
    const Ids ids = expanded(decoder.prompt(question), manifest.at("prompt"), count);
    const auto context = manifest.at("context_length").get<std::size_t>();
    if (ids.size() >= context)
        throw std::runtime_error("prompt and answer must fit into " + std::to_string(context) + " tokens; the prompt alone has " +
                                 std::to_string(ids.size()));
    bool begun = false;
    decoder.answer(ids, tokens.tensor(), tokens.data(), std::min(ids.size() + most, context), [&](const char *piece) {
        while (!begun && std::isspace(static_cast<unsigned char>(*piece))) ++piece;
        begun = begun || *piece;
        std::fputs(piece, stdout);
        std::fflush(stdout);
    });
    std::puts("");
}

// MOST as it is given; 0 where it is no whole number of at least 1.
std::size_t most_of(const char *text) {
    char *end = nullptr;
    errno = 0;
    const long number = std::strtol(text, &end, 10);
    return *text == '\0' || *end != '\0' || errno != 0 || number < 1 ? 0 : static_cast<std::size_t>(number);
}

}  // namespace

int main(int count, char **given) {
    const std::size_t most = count == 5 ? most_of(given[4]) : 256;
    if (count < 4 || count > 5 || most == 0) {
        std::fprintf(stderr, "usage: edgeprune-ask MODEL IMAGE QUESTION [MOST]\n");
        return 2;
    }
    try {
        ask(given[1], given[2], given[3], most);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "edgeprune-ask: %s\n", error.what());
        return 1;
    }
    return 0;
}
