// edgeprune-run BUNDLE IMAGE: an image's tokens, which patches they are, and how long each step took.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "bundle/safetensors.hpp"
#include "edgeprune.h"
#include "images/ppm.hpp"
#include "tools/given.hpp"
#include "tools/npy.hpp"
#include "tools/options.hpp"
#include "tools/spread.hpp"

namespace {

using namespace edgeprune;
using namespace edgeprune::tools;
using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr const char *PIXELS = "pixel_values";

double seconds_since(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

Picture read_image(const std::string &name) {
    const std::string file = read_file(name, "name a PPM image, or - for one from standard input");
    try {
        return read_ppm(reinterpret_cast<const unsigned char *>(file.data()), file.size());
    } catch (const Error &error) {
        throw Error(error.status, (name == "-" ? "standard input" : name) + ": " + error.what());
    }
}

using Handle = std::unique_ptr<edgeprune_bundle, void (*)(edgeprune_bundle *)>;

void check(edgeprune_status status, const edgeprune_bundle *bundle) {
    if (status != EDGEPRUNE_OK) throw Error(status, edgeprune_error(bundle));
}

void note(void *notes, const char *text) { static_cast<std::vector<std::string> *>(notes)->emplace_back(text); }

// notes: what was passed over on the way.
Handle open(const Options &options, std::vector<std::string> &notes) {
    edgeprune_options how = EDGEPRUNE_OPTIONS;
    const std::string library = options.text("onnxruntime");
    how.device = options.device();
    how.threads = options.whole("threads", 0, 1);
    how.keep = options.whole("keep", 0, 1);
    how.split = options.has("split");
    how.onnxruntime = library.empty() ? nullptr : library.c_str();
    how.log = note;
    how.log_context = &notes;
    edgeprune_bundle *bundle = nullptr;
    check(edgeprune_open(options.argument(0).c_str(), &how, &bundle), nullptr);
    return {bundle, edgeprune_close};
}

// A tensor of one run, and its memory.
struct Memory {
    edgeprune_tensor tensor{};
    std::vector<unsigned char> bytes;

    explicit Memory(const edgeprune_tensor &given) : tensor(given), bytes(given.nbytes) {}
    Memory(const edgeprune_tensor &given, std::vector<unsigned char> bytes) : tensor(given), bytes(std::move(bytes)) {}
    edgeprune_buffer buffer() { return {tensor.name, bytes.data(), bytes.size()}; }
    // Of the first image alone, where the run is of several.
    View first(const edgeprune_info &info) const {
        View view{tensor.dtype, {tensor.shape, tensor.shape + tensor.rank}, bytes.data()};
        if (view.shape.empty()) return view;
        if (info.tiles == 1 || view.shape[0] == 0) view.shape[0] = 1;
        return view;
    }
};

struct Done {
    std::vector<std::string> notes;
    edgeprune_info info = EDGEPRUNE_INFO;
    std::vector<Memory> outputs;
    double open_s = 0;
    Seconds preprocess_s, run_s, encode_s, select_s;  // the last two of halves

    View view(const std::string &name) const {
        for (const Memory &one : outputs)
            if (one.tensor.name == name) return one.first(info);
        return {};
    }
};

// What of the inputs beside the pixels was given, read; what was not is for the library to stand in for, or to refuse.
struct Given {
    std::vector<Memory> inputs;
    std::string missing;
};

Given given_to(edgeprune_bundle *bundle, std::size_t inputs, const std::map<std::string, std::string> &files) {
    Given given;
    std::string takes;
    std::size_t used = 0;
    for (std::size_t at = 0; at < inputs; ++at) {
        edgeprune_tensor tensor{};
        check(edgeprune_get_input(bundle, at, &tensor), bundle);
        const std::string name = tensor.name;
        if (name == PIXELS) continue;
        takes += (takes.empty() ? "" : ", ") + name;
        const auto found = files.find(name);
        if (found == files.end()) {
            given.missing += (given.missing.empty() ? "" : ", ") + name;
            continue;
        }
        ++used;
        const Spec spec{name, tensor.dtype, {tensor.shape, tensor.shape + tensor.rank}};
        given.inputs.emplace_back(tensor, read_input(found->second, spec));
    }
    if (used == files.size()) return given;
    for (const auto &one : files)
        if (std::none_of(given.inputs.begin(), given.inputs.end(),
                         [&](const Memory &other) { return one.first == other.tensor.name; }))
            throw wrong_request("--input ", one.first, ": the bundle takes no such input beside its image, it takes ",
                                takes.empty() ? "none" : takes);
    return given;
}

using Buffers = std::vector<edgeprune_buffer>;

// One run, as one graph or as its halves; pixels: the first of the inputs.
void run_once(edgeprune_bundle *bundle, const Buffers &inputs, const Buffers &outputs, std::vector<unsigned char> &seen,
              Done &done) {
    const auto began = Clock::now();
    if (seen.empty()) {
        check(edgeprune_run(bundle, inputs.data(), inputs.size(), outputs.data(), outputs.size()), bundle);
    } else {
        check(edgeprune_encode(bundle, inputs[0].data, inputs[0].nbytes, seen.data(), seen.size()), bundle);
        done.encode_s.push_back(seconds_since(began));
        const auto encoded = Clock::now();
        check(edgeprune_select(bundle, seen.data(), seen.size(), inputs.data() + 1, inputs.size() - 1, outputs.data(),
                               outputs.size()), bundle);
        done.select_s.push_back(seconds_since(encoded));
    }
    done.run_s.push_back(seconds_since(began));
}

Done run_image(edgeprune_bundle *bundle, const Picture &picture, int repeat,
               const std::map<std::string, std::string> &files) {
    Done done;
    check(edgeprune_get_info(bundle, &done.info), bundle);
    const edgeprune_info &info = done.info;
    Given given = given_to(bundle, info.inputs, files);
    edgeprune_tensor tensor{};
    check(edgeprune_find(bundle, PIXELS, &tensor), bundle);
    Memory pixels(tensor);
    Buffers inputs{pixels.buffer()}, buffers;
    for (Memory &one : given.inputs) inputs.push_back(one.buffer());
    std::vector<unsigned char> seen(info.seen_nbytes);
    for (std::size_t at = 0; at < info.outputs; ++at) {
        check(edgeprune_get_output(bundle, at, &tensor), bundle);
        done.outputs.emplace_back(tensor);
    }
    for (Memory &one : done.outputs) buffers.push_back(one.buffer());
    for (int turn = 0; turn < repeat; ++turn) {
        const auto began = Clock::now();
        // A batch that is larger than one image is filled with it.
        for (std::size_t at = 0; at < pixels.bytes.size(); at += info.image_nbytes)
            check(edgeprune_preprocess(bundle, picture.pixels.data(), picture.width, picture.height, 0,
                                       pixels.bytes.data() + at, info.image_nbytes), bundle);
        done.preprocess_s.push_back(seconds_since(began));
        try {
            run_once(bundle, inputs, buffers, seen, done);
        } catch (const Error &error) {
            if (given.missing.empty() || error.status != EDGEPRUNE_WRONG_REQUEST) throw;
            throw wrong_request(error.what(), "; not given: ", given.missing, " (--input NAME=FILE)");
        }
    }
    return done;
}

bool ends_with(const std::string &text, const std::string &end) {
    return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

void check_output(const std::string &path) {
    if (!path.empty() && !ends_with(path, ".npy") && !ends_with(path, ".safetensors"))
        throw wrong_request("--output must end in .npy, for the tokens, or .safetensors, for all outputs, got ", path);
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    std::error_code unknown;
    if (!folder.empty() && !std::filesystem::is_directory(folder, unknown))
        throw wrong_request("--output must lie in a folder that is there, ", folder.string(), " is none; make it first");
    if (std::filesystem::is_directory(path, unknown))
        throw wrong_request("--output must be a file, ", path, " is a folder; name a file in it");
}

void write_output(const std::string &path, const Done &done) {
    if (path.empty()) return;
    if (ends_with(path, ".npy")) {
        const View tokens = done.view("tokens");
        if (!tokens.data) throw wrong_request("the bundle gives no tokens for a .npy; name a .safetensors, for all outputs");
        write_npy(path, tokens);
        return;
    }
    std::map<std::string, View> views;
    for (const Memory &one : done.outputs) views[one.tensor.name] = one.first(done.info);
    write_safetensors(path, views);
}

std::vector<edgeprune_detection> detections(const edgeprune_bundle *bundle, const Done &done, const Picture &picture,
                                            double threshold) {
    if (!done.info.detects) return {};
    const View logits = done.view("logits"), boxes = done.view("pred_boxes");
    std::vector<edgeprune_detection> found;
    std::size_t count = 0;
    do {
        found.resize(count);
        check(edgeprune_detect(bundle, logits.data, logits.count() * size_of(logits.dtype), boxes.data,
                               boxes.count() * size_of(boxes.dtype), picture.width, picture.height,
                               static_cast<float>(threshold), found.data(), found.size(), &count), bundle);
    } while (count > found.size());
    return found;
}

// The likeliest five, of a classifier.
std::vector<edgeprune_class> classes(const edgeprune_bundle *bundle, const Done &done) {
    if (done.info.detects || !done.info.labels || done.view("tokens").data) return {};
    const View logits = done.view("logits");
    std::vector<edgeprune_class> found(std::min<std::size_t>(5, done.info.labels));
    check(edgeprune_classify(bundle, logits.data, logits.count() * size_of(logits.dtype), found.data(), found.size()),
          bundle);
    return found;
}

// What is in the image, by whatever finds it.
struct Seen {
    std::vector<edgeprune_detection> objects;
    std::vector<edgeprune_class> classes;
};

std::string label_of(const edgeprune_bundle *bundle, std::int32_t at) {
    const char *label = edgeprune_label(bundle, static_cast<std::size_t>(at));
    return label ? label : std::to_string(at);
}

// [rows, K] of the image's cells.
Json indices_of(const Done &done) {
    const View indices = done.view("indices");
    Json rows = Json::array();
    if (!indices.data || indices.dtype != EDGEPRUNE_INT32 || indices.shape.size() != 2) return rows;
    const std::int32_t *at = indices.as<std::int32_t>();
    for (std::int64_t row = 0; row < indices.shape[0]; ++row, at += indices.shape[1])
        rows.push_back(std::vector<std::int32_t>(at, at + indices.shape[1]));
    return rows;
}

Json times_of(const Seconds &seconds) {
    return {{"median", 1e3 * percentile(seconds, 50)}, {"p95", 1e3 * percentile(seconds, 95)}};
}

void print_json(const edgeprune_bundle *bundle, const Options &options, const Done &done, const Seen &found) {
    Json outputs = Json::object(), objects = Json::array(), likely = Json::array();
    for (const Memory &one : done.outputs) {
        const View view = one.first(done.info);
        outputs[one.tensor.name] = {{"dtype", name_of(view.dtype)}, {"shape", view.shape}};
    }
    for (const auto &one : found.objects)
        objects.push_back({{"label", label_of(bundle, one.label)}, {"score", one.score},
                           {"box", {one.left, one.top, one.right, one.bottom}}});
    for (const auto &one : found.classes)
        likely.push_back({{"label", label_of(bundle, one.label)}, {"probability", one.probability}});
    Json json{{"method", done.info.method}, {"model", done.info.model}, {"device", done.info.device},
              {"source", done.info.source}, {"notes", done.notes}, {"keep", done.info.keep}, {"outputs", outputs},
              {"indices", indices_of(done)}, {"runs", done.run_s.size()}, {"open_ms", 1e3 * done.open_s},
              {"preprocess_ms", times_of(done.preprocess_s)}, {"run_ms", times_of(done.run_s)}};
    if (!done.encode_s.empty()) {
        json["encode_ms"] = times_of(done.encode_s);
        json["select_ms"] = times_of(done.select_s);
    }
    if (done.info.detects) json["detections"] = objects;
    if (!likely.empty()) json["classes"] = likely;
    if (options.has("output")) json["output"] = options.text("output");
    std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

void print_text(const edgeprune_bundle *bundle, const Options &options, const Done &done, const Seen &found) {
    std::printf("%s of %s, %s on %s\n", printable(done.info.method).c_str(), printable(done.info.model).c_str(),
                printable(done.info.source).c_str(), done.info.device);
    for (const std::string &note : done.notes) std::printf("  %s\n", printable(note).c_str());
    for (const Memory &one : done.outputs) {
        const View view = one.first(done.info);
        std::printf("  %s\n", Spec{one.tensor.name, view.dtype, view.shape}.shown().insert(0, printable(one.tensor.name) + " ").c_str());
    }
    for (const Json &row : indices_of(done)) {
        std::printf("indices");
        for (const Json &one : row) std::printf(" %d", one.get<int>());
        std::printf("\n");
    }
    for (const auto &one : found.classes)
        std::printf("%.3f %s\n", static_cast<double>(one.probability), printable(label_of(bundle, one.label)).c_str());
    for (const auto &one : found.objects)
        std::printf("%.3f %s %.1f %.1f %.1f %.1f\n", static_cast<double>(one.score),
                    printable(label_of(bundle, one.label)).c_str(), static_cast<double>(one.left), static_cast<double>(one.top),
                    static_cast<double>(one.right), static_cast<double>(one.bottom));
    const auto ms = [](const Seconds &seconds, double percent) { return 1e3 * percentile(seconds, percent); };
    std::printf("open %.1f ms, preprocess %.2f ms (p95 %.2f), run %.2f ms (p95 %.2f), medians of %zu\n", 1e3 * done.open_s,
                ms(done.preprocess_s, 50), ms(done.preprocess_s, 95), ms(done.run_s, 50), ms(done.run_s, 95), done.run_s.size());
    if (!done.encode_s.empty())
        std::printf("encode %.2f ms (p95 %.2f), then for each question %.2f ms (p95 %.2f)\n", ms(done.encode_s, 50),
                    ms(done.encode_s, 95), ms(done.select_s, 50), ms(done.select_s, 95));
    if (options.has("output")) std::printf("wrote %s\n", printable(options.text("output")).c_str());
}

double threshold_of(const Options &options) {
    const std::string given = options.text("threshold", "0.5");
    std::size_t end = 0;
    double value = -1;
    try {
        value = std::stod(given, &end);
    } catch (const std::exception &) {
    }
    if (end != given.size() || !(value >= 0 && value <= 1))
        throw wrong_request("--threshold must be a number in 0..1, got ", given, " (see edgeprune-run --help)");
    return value;
}

int body(int count, char **given) {
    std::vector<Option> known{
        {"output", "FILE", "Write the tokens to a .npy, or all outputs to a .safetensors."},
        {"input", "NAME=FILE", "What the graph takes beside the image: a .npy, or its bytes; for each input."},
        {"split", nullptr, "Run the two halves of a bundle that was exported with --split, and time each."},
        {"keep", "K", "The first so many of the kept tokens alone, where kept sets nest; default all."},
        {"repeat", "N", "Runs, for the times; default 1."},
        {"threshold", "X", "Of a detector: least score of an object; default 0.5."},
    };
    known.insert(known.begin() + 1, OPENING.begin(), OPENING.end());
    Options options("edgeprune-run", "BUNDLE IMAGE", "Run a bundle on an image: a PPM or PGM file, or - for standard input.",
                    known, {"edgeprune-run my-bundle photo.ppm --output tokens.npy",
                            "edgeprune-run asked-bundle photo.ppm --input text=question.npy --split",
                            "convert photo.jpg ppm:- | edgeprune-run my-bundle - --json"});
    options.read(count, given);
    check_output(options.text("output"));
    const int repeat = options.whole("repeat", 1, 1);
    const double threshold = threshold_of(options);
    const std::map<std::string, std::string> files = files_of(options.every("input"));
    const Picture picture = read_image(options.argument(1));
    const auto began = Clock::now();
    std::vector<std::string> notes;
    const Handle bundle = open(options, notes);
    const double open_s = seconds_since(began);
    Done done = run_image(bundle.get(), picture, repeat, files);
    done.open_s = open_s;
    done.notes = notes;
    const Seen found{detections(bundle.get(), done, picture, threshold), classes(bundle.get(), done)};
    write_output(options.text("output"), done);
    (options.has("json") ? print_json : print_text)(bundle.get(), options, done, found);
    return 0;
}

}  // namespace

int main(int count, char **given) { return run("edgeprune-run", count, given, body); }
