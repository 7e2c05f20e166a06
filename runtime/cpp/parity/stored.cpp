#include "parity/stored.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "bundle/safetensors.hpp"
#include "bundle/shown.hpp"
#include "parity/inside.hpp"
#include "parity/numbers.hpp"
#include "parity/regret.hpp"
#include "parity/verdict.hpp"

namespace edgeprune::parity {

namespace {

constexpr char REFERENCE[] = "reference.safetensors";
const std::string QUANTITY = "quantity.";
const std::string IMAGES = "images";  // of a probe that is run through the preprocessing as well

// The name of a quantity without the layer of a step: "2.similarity"
std::string kind_of(const std::string &name) {
    const std::size_t point = name.find('.');
    const bool step = point != std::string::npos && point > 0 &&
                      name.find_first_not_of("0123456789") == point;
    return step ? name.substr(point + 1) : name;
}

bool symmetric(const std::string &name) { return kind_of(name) == "similarity" || kind_of(name) == "products"; }

// New memory of the same dtype.
View made_like(const View &value, std::vector<std::int64_t> shape, std::size_t nbytes, std::vector<Memory> &memory) {
    memory.emplace_back(nbytes + 1);  // + 1: of nothing, too, there is an address
    return {value.dtype, std::move(shape), memory.back().data()};
}

// Of cosines and inner products what stands on and above the diagonal is kept: [B, N (N + 1) / 2] -> [B, N, N]
View unpacked(const std::string &name, const View &value, std::vector<Memory> &memory) {
    if (!symmetric(name)) return value;
    if (value.shape.size() != 2) throw misfit(QUANTITY, name, " must be [B, N (N + 1) / 2], got ", shown(value.shape));
    const auto images = static_cast<std::size_t>(value.shape[0]), half = static_cast<std::size_t>(value.shape[1]);
    const auto size = static_cast<std::size_t>(std::sqrt(2.0 * static_cast<double>(half)));
    if (size * (size + 1) / 2 != half)
        throw misfit(QUANTITY, name, " must be [B, N (N + 1) / 2], got ", shown(value.shape));
    if (value.dtype != EDGEPRUNE_FLOAT32) throw misfit(QUANTITY, name, " must be float32, got ", name_of(value.dtype));
    const auto side = static_cast<std::int64_t>(size);
    const View full = made_like(value, {value.shape[0], side, side}, images * size * size * sizeof(float), memory);
    const auto *from = value.as<float>();
    auto *to = reinterpret_cast<float *>(memory.back().data());
    for (std::size_t image = 0; image < images; ++image, to += size * size)
        for (std::size_t row = 0; row < size; ++row)
            for (std::size_t column = row; column < size; ++column, ++from)
                to[row * size + column] = to[column * size + row] =
                    row == column && kind_of(name) == "similarity" ? 1 : *from;  // a cosine of a patch with itself
    return full;
}

// Of [B, K, ...] the rows that stay, or of one image [..., K] the columns.
View picked(const View &value, const Mask &stays, std::int64_t images, std::int64_t every, std::int64_t keep,
            std::vector<Memory> &memory) {
    std::vector<std::int64_t> shape = value.shape;
    std::size_t lines = 0, nbytes = size_of(value.dtype);  // lines of K, each of so many bytes an element
    if (shape.size() >= 2 && shape[0] == images && shape[1] == every) {
        lines = static_cast<std::size_t>(images), shape[1] = keep;
        for (std::size_t at = 2; at < shape.size(); ++at) nbytes *= static_cast<std::size_t>(shape[at]);
    } else if (images == 1 && !shape.empty() && shape.back() == every) {
        lines = every ? value.count() / static_cast<std::size_t>(every) : 0, shape.back() = keep;
    } else {
        return value;
    }
    const auto width = static_cast<std::size_t>(every);
    const View cut = made_like(value, shape, lines * static_cast<std::size_t>(keep) * nbytes, memory);
    unsigned char *to = memory.back().data();
    for (std::size_t at = 0; at < lines * width; ++at) {
        if (!stays[(images == 1 ? 0 : at / width * width) + at % width]) continue;
        std::memcpy(to, value.as<unsigned char>() + at * nbytes, nbytes), to += nbytes;
    }
    return cut;
}

// Scores of gains: those of the picks that go become -inf.
View without_gone(const View &scores, const Places &picks, std::size_t every, std::size_t keep,
                  std::vector<Memory> &memory) {
    const std::size_t images = every ? picks.size() / every : 0;
    if (scores.dtype != EDGEPRUNE_FLOAT32 || scores.shape.size() != 2 ||
        scores.shape[0] != static_cast<std::int64_t>(images) || scores.shape[1] < 1)
        throw misfit("scores must be float32 [B, N], got ", name_of(scores.dtype), " ", shown(scores.shape));
    const std::size_t nbytes = scores.count() * sizeof(float);
    const View cut = made_like(scores, scores.shape, nbytes, memory);
    std::memcpy(memory.back().data(), scores.data, nbytes);
    auto *values = reinterpret_cast<float *>(memory.back().data());
    const auto patches = static_cast<std::size_t>(scores.shape[1]);
    for (std::size_t image = 0; image < images; ++image)
        for (std::size_t at = keep; at < every; ++at) {
            const auto gone = std::clamp<std::int64_t>(picks[image * every + at], 0, scores.shape[1] - 1);
            values[image * patches + static_cast<std::size_t>(gone)] = -std::numeric_limits<float>::infinity();
        }
    return cut;
}

// Places among the tokens -> among those that stay, -1 for the others; what is no place is for parity to find.
View renumbered(const View &origin, const Mask &stays, std::int64_t images, std::size_t every,
                std::vector<Memory> &memory) {
    if (origin.shape.size() != 2 || origin.shape[0] != images || origin.dtype != EDGEPRUNE_INT32)
        throw misfit("origin must be int32 [B, N], got ", name_of(origin.dtype), " ", shown(origin.shape));
    const Places before = places(origin);
    const View after = made_like(origin, origin.shape, before.size() * sizeof(std::int32_t), memory);
    const auto patches = static_cast<std::size_t>(origin.shape[1]);
    for (std::size_t at = 0; at < before.size(); ++at) {
        std::int64_t token = before[at];
        if (token >= 0 && token < static_cast<std::int64_t>(every)) {
            const auto first = stays.begin() + static_cast<std::ptrdiff_t>(at / patches * every);
            token = first[token] ? std::count(first, first + token, 1) : -1;
        }
        const auto single = static_cast<std::int32_t>(token);
        std::memcpy(memory.back().data() + at * sizeof single, &single, sizeof single);
    }
    return after;
}

// Those that are among the first `keep` picks, in raster order: [B, K]
Mask first_of(const Places &picks, std::size_t every, std::size_t keep) {
    Mask stays(picks.size());
    for (std::size_t first = 0; first < picks.size(); first += every) {
        Places order = up_to(every);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t one, std::int64_t other) {
            return picks[first + static_cast<std::size_t>(one)] < picks[first + static_cast<std::size_t>(other)];
        });
        for (std::size_t at = 0; at < every; ++at) stays[first + at] = order[at] < static_cast<std::int64_t>(keep);
    }
    return stays;
}

// What a manifest of schema 1.x does not name: a top-k where it was one, else nothing may differ.
Json older(const Tensors &outputs) {
    const View &given = outputs.at("indices"), &ranks = outputs.at("scores");
    if (given.shape.size() != 2 || ranks.shape.size() != 2 || given.shape[0] != ranks.shape[0])
        throw misfit("indices and scores must be [B, K] and [B, N], got ", shown(given.shape), " and ",
                     shown(ranks.shape));
    const Floats scores = floats(ranks);
    const Places indices = places(given);
    const std::int64_t patches = ranks.shape[1], keep = given.shape[1];
    bool same = std::all_of(scores.begin(), scores.end(), [](double score) { return std::isfinite(score); });
    for (std::int64_t image = 0; same && image < given.shape[0]; ++image) {
        Floats falling = slice(scores, image * patches, (image + 1) * patches);
        for (double &score : falling) score = -score;
        same = sorted(slice(ranked(falling), 0, keep)) == slice(indices, image * keep, (image + 1) * keep);
    }
    return {{"name", same ? "topk" : "fixed"}};
}

std::map<std::string, View> tensors_of(const Bundle &bundle) {
    const Mapped &file = bundle.file(REFERENCE);
    try {
        return read_safetensors(file, REFERENCE);
    } catch (const Error &error) {
        const std::string why = error.what();
        throw bad_bundle(edgeprune::shown(bundle.folder), ": ", REFERENCE, " cannot be read (",
                         why.substr(0, why.rfind(';')), "); export the bundle again");
    }
}

std::string got(const Json &rule) {
    if (!rule.is_object() || !rule.contains("name")) return "None";
    const Json &name = rule["name"];
    return first(name.is_string() ? repr(name.get<std::string>()) : name.dump(), 40);
}

bool ruled(const Json &rule) { return !rule.is_null() && !(rule.is_structured() && rule.empty()); }

}  // namespace

Verdict Probe::compare(const Tensors &given, const std::string &dtype) const {
    const View *tokens = given.find("tokens");
    const DType wanted = dtype == "float16" ? EDGEPRUNE_FLOAT16 : EDGEPRUNE_FLOAT32;
    if (tokens == nullptr || tokens->dtype == wanted || !floating(tokens->dtype))
        return parity::compare(outputs, given, dtype, rule, quantities, whole, quantised);
    const Floats values = floats(*tokens);
    Memory cast(values.size() * size_of(wanted) + 1);
    for (std::size_t at = 0; at < values.size(); ++at) {
        const auto single = static_cast<float>(values[at]);
        const std::uint16_t half = half_of(single);
        if (wanted == EDGEPRUNE_FLOAT16) std::memcpy(cast.data() + at * sizeof half, &half, sizeof half);
        else std::memcpy(cast.data() + at * sizeof single, &single, sizeof single);
    }
    Tensors same_dtype = given;
    same_dtype.set("tokens", {wanted, tokens->shape, cast.data()});
    return parity::compare(outputs, same_dtype, dtype, rule, quantities, whole, quantised);
}

void Probe::cut(int keep) {
    const View *found = outputs.find("picks");
    if (found == nullptr)
        throw wrong_request("fewer tokens need picks, the order of choice, which the graph does not hand out");
    const View picks = *found;
    if (picks.shape.size() != 2) throw misfit("picks must be [B, K], got ", shown(picks.shape));
    const std::int64_t images = picks.shape[0], every = picks.shape[1];
    if (keep < 1 || keep > every)
        throw wrong_request("the number of tokens must be a whole one in 1..", every, ", got ", keep,
                            "; export with more --keep");
    const auto width = static_cast<std::size_t>(every), kept = static_cast<std::size_t>(keep);
    const Places chosen = places(picks);
    const Mask stays = first_of(chosen, width, kept);
    Mask first(chosen.size());
    for (std::size_t at = 0; at < first.size(); ++at) first[at] = at % width < kept;
    Tensors left;
    for (const auto &[name, value] : outputs) {
        if (name == "origin") left.set(name, renumbered(value, stays, images, width, memory));
        else if (name == "picks") left.set(name, picked(value, first, images, every, keep, memory));
        else if (name != "scores") left.set(name, picked(value, stays, images, every, keep, memory));
        else if (said(rule, "name") && rule["name"] == "greedy")
            left.set(name, without_gone(value, chosen, width, kept, memory));
        else left.set(name, value);
    }
    outputs = left;
}

Reference::Reference(const Bundle &bundle)
    : Reference(bundle.manifest, edgeprune::shown(bundle.folder), tensors_of(bundle)) {}

Reference::Reference(const Manifest &manifest, const std::string &folder, std::map<std::string, View> tensors)
    : manifest_(manifest), file_(std::move(tensors)) {
    std::map<std::string, std::set<std::string>> have;
    std::set<std::string> quantities;
    for (const auto &[key, value] : file_) {
        const std::size_t slash = key.rfind('/');
        const std::string field = slash == std::string::npos ? key : key.substr(slash + 1);
        have[slash == std::string::npos ? "" : key.substr(0, slash)].insert(field);
        if (field.compare(0, QUANTITY.size(), QUANTITY) == 0) quantities.insert(field);
    }
    quantities_.assign(quantities.begin(), quantities.end());
    std::vector<std::string> needed;  // what one probe has, every probe has
    for (const Spec &spec : manifest_.encoder().inputs) needed.push_back(spec.name);
    for (const Spec &spec : manifest_.encoder().outputs) needed.push_back(spec.name);
    needed.insert(needed.end(), quantities_.begin(), quantities_.end());
    const auto lacks = [&](const std::string &what) {
        return bad_bundle(folder, ": ", REFERENCE, " lacks ", what, "; export the bundle again");
    };
    if (have.empty()) throw lacks("any probe");
    for (const auto &[name, fields] : have) {
        for (const auto &field : needed)
            if (fields.count(field) == 0) throw lacks(edgeprune::shown(name + "/" + field));
        names_.push_back(name);
    }
    const Json &rule = manifest_.rule;
    if (ruled(rule) && rule.is_object() && rule.contains("name") && is_rule(rule["name"]) && rule.contains("steps") &&
        rule["steps"].is_array())
        for (const Json &step : rule["steps"])
            if (ruled(step) && step.is_object() && !(step.contains("name") && is_step_rule(step["name"])))
                throw bad_bundle(folder, ": the rule of a step must be one of ", step_rule_names(), ", got ", got(step),
                                 "; upgrade edgeprune");
    if (ruled(rule) && !(rule.is_object() && rule.contains("name") && is_rule(rule["name"])))
        throw bad_bundle(folder, ": the rule of its manifest must be one of ", rule_names(), ", got ", got(rule),
                         "; upgrade edgeprune");
}

Probe Reference::read(const std::string &name) const {
    const auto tensor = [&](const std::string &field) {
        const auto found = file_.find(name + "/" + field);
        if (found == file_.end()) throw misfit("File does not contain tensor ", edgeprune::shown(name + "/" + field));
        return found->second;
    };
    Probe probe;
    probe.whole = !manifest_.steps.empty(), probe.quantised = of_probe(manifest_.quantised, name);
    for (const Spec &spec : manifest_.encoder().inputs) probe.inputs.set(spec.name, tensor(spec.name));
    for (const Spec &spec : manifest_.encoder().outputs) probe.outputs.set(spec.name, tensor(spec.name));
    for (const auto &field : quantities_) {
        const std::string quantity = field.substr(QUANTITY.size());
        probe.quantities.set(quantity, unpacked(quantity, tensor(field), probe.memory));
    }
    if (file_.count(name + "/" + IMAGES)) probe.images = tensor(IMAGES);
    probe.rule = ruled(manifest_.rule) ? manifest_.rule : older(probe.outputs);
    return probe;
}

}  // namespace edgeprune::parity
