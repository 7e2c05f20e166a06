#include "backends/tensors.hpp"

#include <algorithm>

#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

constexpr const char *PIXELS = "pixel_values";

// The outputs that the manifest names for a graph, those first that make the encoder one of its kind.
std::vector<std::string> wanted_names(const Manifest &manifest, const Graph &graph) {
    std::vector<std::string> first = {"tokens", "indices", "scores"}, names;
    if (manifest.gives() == Gives::DETECTIONS) first = {"logits", "pred_boxes"};
    if (manifest.gives() == Gives::LOGITS) first = {"logits"};
    for (const std::string &name : first)
        if (find(graph.outputs, name)) names.push_back(name);
    for (const Spec &spec : graph.outputs)
        if (std::find(names.begin(), names.end(), spec.name) == names.end()) names.push_back(spec.name);
    return names;
}

std::string joined(const std::vector<std::string> &names) {
    std::string text;
    for (const std::string &name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

const Spec *find_in(const std::vector<Spec> &one, const std::vector<Spec> &other, const std::string &name) {
    const Spec *found = find(one, name);
    return found ? found : find(other, name);
}

bool same(const Spec *one, const Spec *other) {
    return one && other && one->dtype == other->dtype && one->shape == other->shape;
}

std::string shown_or_nothing(const Spec *spec) { return spec ? spec->shown() : "nothing"; }

}  // namespace

std::string names_of(const std::vector<Spec> &specs) {
    std::vector<std::string> names;
    for (const Spec &spec : specs) names.push_back(spec.name);
    return names.empty() ? "none" : joined(names);
}

std::vector<Spec> wanted_outputs(const std::string &source, const std::vector<Spec> &inputs,
                                 const std::vector<Spec> &have, const Manifest &manifest, const Graph &graph,
                                 const std::string &again) {
    if (graph.outputs.empty()) return have;
    const std::vector<std::string> names = wanted_names(manifest, graph);
    std::vector<Spec> wanted;
    for (const std::string &name : names)
        if (const Spec *spec = find(have, name)) wanted.push_back(*spec);
    if (inputs.empty() || wanted.size() != names.size())
        throw bad_bundle(source, " must have an input and the outputs ", joined(names), "; it has ", names_of(inputs),
                         " and ", names_of(have), "; ", again);
    return wanted;
}

void check_tensors(const Bundle &bundle, const std::string &name, const Backend &backend) {
    const Graph &graph = bundle.manifest.graphs.at(name);
    const std::string folder = shown(bundle.folder);
    if (graph.outputs.empty()) return;
    for (const auto *specs : {&backend.inputs(), &backend.outputs(), &graph.inputs, &graph.outputs}) {
        for (const Spec &spec : *specs) {
            const Spec *have = find_in(backend.inputs(), backend.outputs(), spec.name);
            const Spec *said = find_in(graph.inputs, graph.outputs, spec.name);
            if (!same(have, said))
                throw bad_bundle(folder, ": ", spec.name, " is ", shown_or_nothing(have), " in ",
                                 backend.source(), ", manifest.json says ", shown_or_nothing(said),
                                 "; export the bundle again");
        }
    }
    if (name != SELECT && !find(backend.inputs(), PIXELS))
        throw bad_bundle(folder, ": ", backend.source(), " must take ", PIXELS, ", it takes ",
                         names_of(backend.inputs()));
}

}  // namespace edgeprune
