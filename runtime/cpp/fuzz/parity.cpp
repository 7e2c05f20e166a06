// A reference that a hand has changed: JSON that says what the manifest would say of it, NUL, and a safetensors file
// with the tensors of a reference, and as got/<name> what the graph gave. There is a verdict, or one line.
#include <algorithm>
#include <vector>

#include "bundle/safetensors.hpp"
#include "held.hpp"
#include "parity/stored.hpp"

namespace {

using namespace edgeprune;
using namespace held;

// The manifest of a graph that gives these tensors.
Manifest manifest_of(const Json &given, const std::map<std::string, View> &got) {
    Manifest manifest;
    if (given.contains("rule")) manifest.rule = given["rule"];
    if (given.contains("whole")) manifest.steps = {{1, 1}};
    Graph graph;
    for (const auto &[name, value] : got) graph.outputs.push_back({name, value.dtype, value.shape});
    manifest.graphs.add("encoder", graph);
    return manifest;
}

void judge(const Json &given, const std::map<std::string, View> &file) {
    std::map<std::string, View> reference, got;
    parity::Tensors outputs;
    for (const auto &[name, value] : file)
        if (name.compare(0, 4, "got/") == 0) got[name.substr(4)] = value;
        else reference[name] = value;
    for (const auto &[name, value] : got) outputs.set(name, value);
    const Manifest manifest = manifest_of(given, got);
    const parity::Reference stored(manifest, "x", reference);
    for (const auto &name : stored.names()) {
        parity::Probe probe = stored.read(name);
        if (given.contains("keep")) probe.cut(2);
        const parity::Verdict verdict = probe.compare(outputs, given.contains("half") ? "float16" : "float32");
        must(verdict.decided + verdict.within + verdict.wrong <= verdict.decisions);
        must(verdict.decisions >= 0 && (!verdict.passed() || verdict.wrong == 0));
        must(!verdict.to_json().dump(-1, ' ', true, Json::error_handler_t::replace).empty());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    const auto *end = std::find(data, data + size, std::uint8_t{0});
    if (end == data + size) return 0;
    const Json given = Json::parse(data, end, nullptr, false);
    if (!given.is_object()) return 0;
    const std::vector<std::uint8_t> file(end + 1, data + size);  // aligned, as a file is that is mapped
    taken([&] { judge(given, read_safetensors({file.data(), file.size()}, "x")); });
    return 0;
}
