#include "bundle/manifest.hpp"

#include <algorithm>
#include <limits>

#include <nlohmann/json.hpp>

#include "bundle/schema.hpp"
#include "bundle/sha256.hpp"
#include "bundle/shown.hpp"
#include "bundle/value.hpp"
#include "error.hpp"

namespace edgeprune {

namespace {

constexpr int NESTED = 256;  // arrays and objects in each other, the manifest's own object among them
constexpr const char *REMEDY = "; export the bundle again";

// What stands as `digest` in a manifest, which has none then; "" where it is no text.
std::string taken_digest(Value &manifest) {
    auto &members = std::get<Object>(manifest.is);
    const auto found = std::find_if(members.begin(), members.end(), [](auto &one) { return one.first == "digest"; });
    if (found == members.end()) return "";
    const std::string digest = found->second.text() ? *found->second.text() : "";
    members.erase(found);
    return digest;
}

std::string digest_of(const Value &manifest) {
    const std::string content = canonical(manifest);
    return sha256(content.data(), content.size());
}

// The manifest as a value, its digest checked, in the form of 2.0.
Value checked(const std::string &text) {
    std::optional<Value> given = parse(text);
    const Value *version = given ? given->find("schema_version") : nullptr;
    if (!version)
        throw bad_bundle(MANIFEST,
                         " must be a JSON object with a schema_version, finite numbers, whole characters and each "
                         "name once; it is not: copy the bundle again");
    const std::string *spelt = version->text();
    const std::string major = spelt ? spelt->substr(0, spelt->find('.')) : "";
    if (major != "1" && major != "2")
        throw bad_bundle(MANIFEST, " has schema ", repr(*version, false, 40), ", this one reads 1.x and ",
                         SCHEMA_VERSION, "; upgrade edgeprune");
    const std::string digest = taken_digest(*given);
    if (major != "1" && digest != digest_of(*given))
        throw bad_bundle(MANIFEST, " has changed since the export (digest differs); copy the bundle again");
    if (depth(*given) > NESTED) throw bad_bundle(MANIFEST, " is nested too deeply", REMEDY);
    return major == "1" ? upgraded(*given) : std::move(*given);
}

const Value &field(const Value &of, const char *name) { return *of.find(name); }
const std::string &text(const Value &of, const char *name) { return *field(of, name).text(); }
std::int64_t whole(const Value &of, const char *name) { return *field(of, name).whole(); }

// Of what fits into 64 bits in the file, and into 32 in this library.
int narrow(std::int64_t number, const std::string &what) {
    if (number < 0 || number > std::numeric_limits<int>::max())
        throw Wrong(what + " must be in 0..2147483647 in this library, got " + std::to_string(number));
    return static_cast<int>(number);
}

Spec spec_of(const std::string &name, const Value &given, const std::string &graph) {
    Spec spec{name, dtype_of(text(given, "dtype")), {}};
    const std::string where = "graphs[" + repr(graph) + "]: " + name;
    std::size_t total = size_of(spec.dtype);
    for (const Value &size : *field(given, "shape").array()) {
        if (size.text() && !spec.shape.empty())
            throw Wrong(where + " must have no dimension that is free but the first in this library, got " +
                        repr(field(given, "shape"), true, 60));
        spec.shape.push_back(size.text() ? OPEN : *size.whole());
        if (!size.text() && __builtin_mul_overflow(total, static_cast<std::size_t>(*size.whole()), &total))
            throw Wrong(where + " must fit into memory, got " + repr(field(given, "shape"), true, 60));
    }
    if (spec.shape.size() > EDGEPRUNE_MAX_RANK || total > std::numeric_limits<std::size_t>::max() / 4)
        throw Wrong(where + " must have at most " + std::to_string(EDGEPRUNE_MAX_RANK) +
                    " dimensions and fit into memory in this library, got " + repr(field(given, "shape"), true, 60));
    return spec;
}

std::vector<Spec> specs_of(const Value &given, const std::string &graph) {
    std::vector<Spec> specs;
    for (const auto &[name, spec] : *given.object()) specs.push_back(spec_of(name, spec, graph));
    return specs;
}

Json json_of(const Value &value) {
    if (const bool *truth = value.truth()) return *truth;
    if (const std::int64_t *number = value.whole()) return *number;
    if (const double *number = value.real()) return *number;
    if (const std::string *string = value.text()) return *string;
    if (const Array *items = value.array()) {
        Json array = Json::array();
        for (const Value &one : *items) array.push_back(json_of(one));
        return array;
    }
    if (const Object *members = value.object()) {
        Json object = Json::object();
        for (const auto &[name, one] : *members) object[name] = json_of(one);
        return object;
    }
    return nullptr;
}

std::vector<std::string> texts_of(const Value *value) {
    std::vector<std::string> texts;
    if (value)
        for (const Value &one : *value->array()) texts.push_back(*one.text());
    return texts;
}

Engine engine_of(const Value &given, const std::string &where) {
    Engine engine{text(given, "plan"), text(given, "kind"), text(given, "version"), text(given, "system"), {},
                  texts_of(given.find("flags"))};
    for (const Value &sm : *field(given, "sm").array()) engine.sm.push_back(narrow(*sm.whole(), where + ".sm"));
    return engine;
}

Manifest manifest_of(const Value &fields) {
    Manifest made;
    if (const Value *version = fields.find("schema_version")) made.schema = *version->text();
    made.method = text(fields, "method");
    made.model = text(field(fields, "model"), "id");
    made.precision = text(fields, "precision");
    made.target = text(fields, "target");
    made.keep = narrow(whole(fields, "keep"), "keep");
    const Array &grid = *field(fields, "grid").array();
    made.rows = narrow(*grid[0].whole(), "grid");
    made.columns = narrow(*grid[1].whole(), "grid");
    made.tiles = narrow(whole(fields, "tiles"), "tiles");
    const std::int64_t patches = std::int64_t{made.rows} * made.columns;
    narrow(patches, "the patches of grid");
    narrow(patches * made.tiles, "the patches of all tiles");
    if (const Value *nested = fields.find("nested")) made.nested = *nested->truth();
    for (const auto &[name, graph] : *field(fields, "graphs").object())
        made.graphs.add(name, {text(graph, "file"), specs_of(field(graph, "inputs"), name),
                               specs_of(field(graph, "outputs"), name)});
    if (const Value *files = fields.find("files"))
        for (const auto &[name, file] : *files->object())
            made.files.add(name, {static_cast<std::uint64_t>(whole(file, "size")), text(file, "sha256")});
    if (const Value *engines = fields.find("engines"))
        for (const auto &[name, engine] : *engines->object())
            made.engines.add(name, engine_of(engine, "engines[" + repr(name) + "]"));
    if (const Value *steps = fields.find("steps"))
        for (const Value &step : *steps->array())
            made.steps.emplace_back(narrow(*(*step.array())[0].whole(), "steps"),
                                    narrow(*(*step.array())[1].whole(), "steps"));
    made.labels = texts_of(fields.find("labels"));
    made.preprocessing = json_of(field(fields, "preprocessing"));
    const Value *rule = fields.find("rule");
    made.rule = rule ? json_of(*rule) : Json::object();
    const Value *ports = fields.find("ports");
    made.ports = ports ? json_of(*ports) : Json::object();
    if (const Value *quantised = fields.find("quantised")) made.quantised = json_of(*quantised);
    return made;
}

}  // namespace

bool Manifest::tiled() const { return preprocessing.contains("tiles") && tiles > 1; }

bool Manifest::pooled() const {
    const Spec *tokens = find(encoder().outputs, "tokens");
    return tiles > 1 && tokens && !tokens->shape.empty() && tokens->shape[0] == 1;
}

Gives Manifest::gives() const {
    const auto has = [&](const char *name) { return find(encoder().outputs, name) != nullptr; };
    if (has("tokens") || !has("logits")) return Gives::TOKENS;
    return has("pred_boxes") ? Gives::DETECTIONS : Gives::LOGITS;
}

std::string Manifest::computes() const {
    if (quantised.is_null()) return precision;
    return name_of(find(encoder().outputs, gives() == Gives::TOKENS ? "tokens" : "logits")->dtype);
}

std::vector<std::string> Manifest::disabled(const std::string &device) const {
    const Json::json_pointer names("/session/" + device + "/disable");
    return quantised.is_object() && quantised.contains(names) ? quantised[names].get<std::vector<std::string>>()
                                                              : std::vector<std::string>();
}

Manifest Manifest::read(const std::string &given) {
    try {
        const Value fields = edgeprune::read(SCHEMA, checked(given), "");
        check_agreement(fields);
        return manifest_of(fields);
    } catch (const Wrong &wrong) {
        throw bad_bundle(MANIFEST, ": ", wrong.what(), REMEDY);
    }
}

const Spec *find(const std::vector<Spec> &specs, const std::string &name) {
    for (const Spec &spec : specs)
        if (spec.name == name) return &spec;
    return nullptr;
}

}  // namespace edgeprune
