// What a bundle says of itself: manifest.json, schema 2.x and 1.x, as
// edgeprune/bundle/{manifest,schema,agreement,older}.py read it, with the same refusals.
//
// What differs from Python: numbers that this library holds in 32 bits (keep, grid, tiles, steps, sm) must fit into
// them, a tensor has at most 8 dimensions, of which the first alone may be free, and fits into memory.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "bundle/named.hpp"
#include "tensor.hpp"

namespace edgeprune {

using Json = nlohmann::json;

// Names of graphs: the pruned one, and its halves where it was split: what the pixels decide, and what a question does.
inline constexpr const char *ENCODER = "encoder", *ENCODE = "encode", *SELECT = "select";
// How the names of the graphs begin that it is measured against.
inline constexpr const char *BASELINE = "baseline.";
inline bool is_baseline(const std::string &name) { return name.rfind(BASELINE, 0) == 0; }

struct Graph {
    std::string file;
    std::vector<Spec> inputs, outputs;  // in the order of the manifest; of a baseline from schema 1.x none
};

struct File {
    std::uint64_t size;
    std::string sha256;
};

struct Engine {
    std::string plan, kind, version, system;
    std::vector<int> sm;
    std::vector<std::string> flags;
};

// What a bundle gives instead of each other: tokens, or what a detector or a classifier says.
enum class Gives { TOKENS, DETECTIONS, LOGITS };

// How an image becomes an input: the fields of runtime/images/preprocess.py, by name. Read by images/preprocessing.
struct Manifest {
    std::string schema, method, model, precision, target;
    int keep = 0, rows = 0, columns = 0, tiles = 1;
    bool nested = false;
    Named<Graph> graphs;      // ENCODER, perhaps ENCODE and SELECT, BASELINE + name
    Named<File> files;
    Named<Engine> engines;  // by target
    std::vector<std::pair<int, int>> steps;
    std::vector<std::string> labels;
    Json preprocessing, rule;  // objects
    Json ports;                // an object: input -> {"what": text, "blank": a number, or null where it has to be given}
    Json quantised;            // an object, or null of a float graph

    const Graph &encoder() const { return graphs.at(ENCODER); }
    bool halves() const { return graphs.count(ENCODE) && graphs.count(SELECT); }
    int patches() const { return rows * columns; }
    bool tiled() const;
    bool pooled() const;
    Gives gives() const;
    // The float that is rounded to where nothing is quantised.
    std::string computes() const;
    // ONNX Runtime's optimizers that must not run on a device, "cpu" or "cuda", before its form of the graph is found.
    std::vector<std::string> disabled(const std::string &device) const;

    // Throws bad_bundle when the text is no manifest that this library knows, has changed, or contradicts itself.
    static Manifest read(const std::string &text);
};

const Spec *find(const std::vector<Spec> &specs, const std::string &name);  // nullptr where there is none

}  // namespace edgeprune
