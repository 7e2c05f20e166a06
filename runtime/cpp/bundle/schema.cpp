#include "bundle/schema.hpp"

#include "bundle/shown.hpp"

namespace edgeprune {

namespace {

constexpr Kind ANY{Kind::any}, BOOLEAN{Kind::boolean}, INTEGER{Kind::integer}, TEXT{Kind::text};
constexpr Kind DIMENSION{Kind::integer_or_text};
constexpr Kind INTEGERS = array_of(INTEGER), PAIR = array_of(INTEGER, 2), TEXTS = array_of(TEXT);
constexpr Kind TREE = map_of(ANY), TREE_OR_NULL = or_null(TREE), COUNTS = map_of(INTEGER), VERSIONS = map_of(TEXT);

constexpr Kind SHAPE = array_of(DIMENSION);
constexpr Field TENSOR_FIELDS[] = {{"shape", &SHAPE}, {"dtype", &TEXT}};
constexpr Kind TENSOR = table(TENSOR_FIELDS), TENSORS = map_of(TENSOR);

constexpr Field GRAPH_FIELDS[] = {{"file", &TEXT}, {"inputs", &TENSORS}, {"outputs", &TENSORS}};
constexpr Kind GRAPH = table(GRAPH_FIELDS), GRAPHS = map_of(GRAPH);

constexpr Field FILE_FIELDS[] = {{"size", &INTEGER}, {"sha256", &TEXT}};
constexpr Kind FILE_KIND = table(FILE_FIELDS), FILES = map_of(FILE_KIND);

constexpr Field MODEL_FIELDS[] = {
    {"id", &TEXT}, {"revision", &TEXT}, {"family", &TEXT}, {"layer", &INTEGER}, {"features", &TEXT},
};
constexpr Kind MODEL = table(MODEL_FIELDS);

constexpr Field ENGINE_FIELDS[] = {
    {"plan", &TEXT},   {"kind", &TEXT},   {"version", &TEXT},     {"sm", &INTEGERS},
    {"system", &TEXT}, {"flags", &TEXTS}, {"build_ms", &INTEGER},
};
constexpr Kind ENGINE = table(ENGINE_FIELDS), ENGINES = map_of(ENGINE);

constexpr Kind STEPS = array_of(PAIR), COUNTED = array_of(INTEGER, 3), LAYERS = array_of(COUNTED);
constexpr bool MAY = false;
constexpr Field FIELDS[] = {
    {"method", &TEXT},
    {"options", &TREE},
    {"keep", &INTEGER},
    {"grid", &PAIR},
    {"tiles", &INTEGER},
    {"model", &MODEL},
    {"precision", &TEXT},
    {"graphs", &GRAPHS},
    {"preprocessing", &TREE},
    {"target", &TEXT},
    {"cost", &COUNTS},
    {"deviations", &TEXTS},
    {"versions", &VERSIONS},
    {"files", &FILES, MAY},
    {"engines", &ENGINES, MAY},
    {"steps", &STEPS, MAY},
    {"layers", &LAYERS, MAY},
    {"inside", &TREE, MAY},
    {"learned", &TREE, MAY},
    {"ports", &TREE, MAY},
    {"nested", &BOOLEAN, MAY},
    {"rule", &TREE, MAY},
    {"layout", &TEXT, MAY},
    {"labels", &TEXTS, MAY},
    {"float32_nodes", &TEXTS, MAY},
    {"calibration", &TREE, MAY},
    {"quantised", &TREE_OR_NULL, MAY},
    {"schema_version", &TEXT, MAY},
};

bool begins(const std::string &text, const std::string &with) { return text.compare(0, with.size(), with) == 0; }
bool ends(const std::string &text, const std::string &with) {
    return text.size() >= with.size() && text.compare(text.size() - with.size(), with.size(), with) == 0;
}

}  // namespace

const Kind SCHEMA = table(FIELDS);

Value upgraded(const Value &given) {
    for (const char *name : {"dtype", "inputs", "outputs", "files"})
        if (!given.find(name)) throw Wrong(std::string(name) + " must be given");
    const Value &files = *given.find("files");
    if (!files.object()) throw Wrong("files must be an object, got " + repr(files, false, 60));
    const auto graph = [](const std::string &file, const Value &inputs, const Value &outputs) {
        return Value{Object{{"file", {file}}, {"inputs", inputs}, {"outputs", outputs}}};
    };
    Object graphs{{"encoder", graph("encoder.onnx", *given.find("inputs"), *given.find("outputs"))}};
    const std::string onnx = ".onnx";
    for (const auto &file : *files.object())
        if (const std::string &name = file.first; begins(name, "baseline.") && ends(name, onnx))
            graphs.emplace_back(name.substr(0, name.size() - onnx.size()), graph(name, {Object()}, {Object()}));
    Object rest;
    for (const auto &[name, value] : *given.object())
        if (name != "dtype" && name != "inputs" && name != "outputs" && name != "precision" && name != "graphs")
            rest.emplace_back(name, value);
    rest.emplace_back("precision", *given.find("dtype"));
    rest.emplace_back("graphs", Value{graphs});
    return {rest};
}

}  // namespace edgeprune
