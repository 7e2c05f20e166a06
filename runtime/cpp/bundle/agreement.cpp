// What must hold within a manifest: numbers that are counts, text that can be printed, shapes that fit each other.
// Rules and words in the order of edgeprune/bundle/agreement.py, then what this library alone cannot hold (`fits`).
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "bundle/schema.hpp"
#include "bundle/shown.hpp"

namespace edgeprune {

namespace {

constexpr const char *DTYPES[] = {"float32", "float16", "uint8", "int8", "int32", "int64", "bool"};
constexpr const char *PRECISIONS[] = {"float32", "float16", "int8", "int8-dynamic", "fp8"};
constexpr const char *BOUNDS[] = {"regret", "token_median", "token_each"};

template <std::size_t N>
std::string joined(const char *const (&names)[N]) {
    std::string text = names[0];
    for (std::size_t at = 1; at < N; ++at) text += std::string(", ") + names[at];
    return text;
}

template <std::size_t N>
bool is_one_of(const std::string &text, const char *const (&names)[N]) {
    return std::find(std::begin(names), std::end(names), text) != std::end(names);
}

void must(bool holds, const std::string &rule, const std::string &got) {
    if (!holds) throw Wrong(rule + ", got " + first(got, 60));
}

void must(bool holds, const std::string &rule, const Value &got, bool tuple = false) {
    if (!holds) throw Wrong(rule + ", got " + repr(got, tuple, 60));
}

const Value &field(const Value &of, const char *name) { return *of.find(name); }
std::int64_t whole(const Value &value) { return *value.whole(); }
const std::string &text(const Value &value) { return *value.text(); }
const Array &items(const Value &value) { return *value.array(); }

const Object &members(const Value *value) {  // of a field that may be left out
    static const Object none;
    return value ? *value->object() : none;
}

Value names_of(const Object &things) {
    Array names;
    for (const auto &thing : things) names.push_back({thing.first});
    return {names};
}

std::int64_t times(std::int64_t a, std::int64_t b) {  // of what is above 0, as far as 64 bits go
    std::int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::int64_t>::max() : product;
}

// As Python compares a dimension with a value of JSON.
bool is_same(const Value &value, const Value &dimension) {
    if (const std::string *name = dimension.text()) return value.text() && *value.text() == *name;
    const std::int64_t size = whole(dimension);
    if (const bool *truth = value.truth()) return size == (*truth ? 1 : 0);
    if (const std::int64_t *other = value.whole()) return *other == size;
    const double *real = value.real();
    return real && std::fabs(*real) < 0x1p63 && std::floor(*real) == *real && static_cast<std::int64_t>(*real) == size;
}

bool is_same(const Array &values, const Array &dimensions) {
    return std::equal(values.begin(), values.end(), dimensions.begin(), dimensions.end(),
                      [](const Value &a, const Value &b) { return is_same(a, b); });
}

std::string bracketed(const Array &shape) {  // "[batch, 5, 7]"
    std::string out = "[";
    for (std::size_t at = 0; at < shape.size(); ++at) {
        if (at) out += ", ";
        out += shape[at].text() ? text(shape[at]) : std::to_string(whole(shape[at]));
    }
    return out + "]";
}

void check_texts(const Value &value, const std::string &path) {
    const auto check = [](const std::string &where, const std::string &what) {
        if (!is_printable(what))
            throw Wrong(where + " must be text that can be printed, got " + first(repr(what, true), 60));
    };
    if (value.text()) {
        check(path, text(value));
    } else if (const Object *inner = value.object()) {
        for (const auto &[name, one] : *inner) {
            check("a name in " + (path.empty() ? "it" : path), name);
            check_texts(one, path.empty() ? name : path + "." + name);
        }
    } else if (const Array *inner_items = value.array()) {
        for (std::size_t at = 0; at < inner_items->size(); ++at)
            check_texts((*inner_items)[at], path + "[" + std::to_string(at) + "]");
    }
}

// Of the fields that the rules below ask for again and again.
struct Asked {
    const Value &fields;
    std::int64_t keep = whole(field(fields, "keep")), tiles = whole(field(fields, "tiles"));
    std::int64_t rows = whole(items(field(fields, "grid"))[0]), columns = whole(items(field(fields, "grid"))[1]);

    std::int64_t patches() const { return times(rows, columns); }
    const Object &graphs() const { return members(fields.find("graphs")); }
    const Value &encoder() const { return *field(fields, "graphs").find("encoder"); }
    const Value *output(const char *name) const { return field(encoder(), "outputs").find(name); }
    const Array &shape(const Value &tensor) const { return items(field(tensor, "shape")); }
    bool inside() const { return !members(fields.find("inside")).empty(); }
    bool tiled() const { return field(fields, "preprocessing").find("tiles") && tiles > 1; }
    bool pooled() const {
        const Value *tokens = tiles > 1 ? output("tokens") : nullptr;
        return tokens && !shape(*tokens).empty() && is_same(shape(*tokens)[0], {std::int64_t{1}});
    }
};

void check_counts(const Asked &asked) {
    const Value &fields = asked.fields;
    const Value &grid = field(fields, "grid");
    must(asked.rows > 0 && asked.columns > 0, "grid must be rows and columns, both above 0", grid, true);
    must(asked.tiles > 0, "tiles must be above 0", field(fields, "tiles"));
    const std::int64_t most = times(asked.patches(), asked.tiles);
    must(asked.keep > 0 && asked.keep <= most, "keep must be in 1.." + std::to_string(most), field(fields, "keep"));
    must(is_one_of(text(field(fields, "precision")), PRECISIONS), "precision must be one of " + joined(PRECISIONS),
         field(fields, "precision"));
    if (const Value *steps = fields.find("steps"))
        for (const Value &step : items(*steps))
            must(whole(items(step)[0]) >= 0 && whole(items(step)[1]) >= 0, "steps must be pairs of layers and tokens",
                 step, true);
    if (const Value *layers = fields.find("layers")) {
        for (const Value &layer : items(*layers))
            for (const Value &count : items(layer))
                must(whole(count) >= 0, "layers must be tokens and multiply-adds, none below 0", layer, true);
        const std::int64_t count = static_cast<std::int64_t>(items(*layers).size());
        const std::int64_t wanted = whole(field(field(fields, "model"), "layer"));
        must(count == 0 || count == wanted,
             "layers must have one entry of each of the " + std::to_string(wanted), Value{count});
    }
    for (const auto &[name, count] : members(fields.find("cost")))
        must(whole(count) >= 0, "cost[" + repr(name) + "] must not be below 0", count);
    for (const auto &[name, file] : members(fields.find("files"))) {
        const Value &size = field(file, "size");
        must(whole(size) >= 0, "files[" + repr(name) + "].size must not be below 0", size);
    }
}

void check_graphs(const Asked &asked) {
    must(asked.fields.find("graphs")->find("encoder"), "graphs must have encoder", names_of(asked.graphs()));
    std::set<std::string_view> listed;
    for (const auto &file : members(asked.fields.find("files"))) listed.insert(file.first);
    const auto is_dimension = [](const Value &size) { return size.text() ? !size.text()->empty() : whole(size) > 0; };
    for (const auto &[name, graph] : asked.graphs()) {
        const std::string &file = text(field(graph, "file"));
        if (!listed.empty() && !listed.count(file)) throw Wrong("files must list " + file + ", the graph " + name);
        for (const char *side : {"inputs", "outputs"}) {
            for (const auto &[tensor, spec] : members(graph.find(side))) {
                const std::string path = "graphs[" + repr(name) + "]: " + tensor;
                const Array &shape = asked.shape(spec);
                must(is_one_of(text(field(spec, "dtype")), DTYPES), path + " must be one of " + joined(DTYPES),
                     field(spec, "dtype"));
                must(std::all_of(shape.begin(), shape.end(), is_dimension), path + " must have dimensions above 0",
                     field(spec, "shape"), true);
            }
        }
    }
    for (const auto &[name, engine] : members(asked.fields.find("engines"))) {
        const std::string &plan = text(field(engine, "plan"));
        if (!listed.count(plan)) throw Wrong("files must list " + plan + ", the plan for " + name);
    }
}

// pixel_values is as large as the preprocessing makes images.
void check_pixels(const Asked &asked) {
    const Value *spec = field(asked.encoder(), "inputs").find("pixel_values");
    const Value *size = field(asked.fields, "preprocessing").find("size");
    if (!spec || !size || !size->array()) return;
    const Array &shape = asked.shape(*spec);
    must(shape.size() == 4, "pixel_values must have 4 dimensions", field(*spec, "shape"), true);
    const auto begin = shape.begin() + (text(field(*spec, "dtype")) == "uint8" ? 1 : 2);
    const Array side(begin, begin + 2);
    const std::string rule = "preprocessing must give images of " + bracketed(side) + ", as encoder takes them";
    must(is_same(items(*size), side), rule, *size);
}

// A tensor that begins with these dimensions and, of tokens, has one more.
void check_lead(const Asked &asked, const char *name, const Array &lead) {
    const Value *spec = asked.output(name);
    if (!spec) return;
    const Array &shape = asked.shape(*spec);
    const std::size_t more = std::string_view(name) == "tokens";
    const bool begins = shape.size() == lead.size() + more &&
                        is_same(Array(shape.begin(), shape.begin() + static_cast<std::ptrdiff_t>(lead.size())), lead);
    Array wanted = lead;
    if (more) wanted.push_back({"a width"});
    must(begins, std::string(name) + " must be " + bracketed(wanted), repr(bracketed(shape)));
}

// The tensors that every encoder of its kind has, beside keep, grid and tiles.
void check_encoder(const Asked &asked) {
    const Value &inputs = field(asked.encoder(), "inputs"), &outputs = field(asked.encoder(), "outputs");
    std::set<std::string> shared;
    {
        std::set<std::string_view> given;
        for (const auto &input : members(&inputs)) given.insert(input.first);
        for (const auto &output : members(&outputs))
            if (given.count(output.first)) shared.insert(output.first);
    }
    Array both;
    for (const std::string &name : shared) both.push_back({name});
    must(both.empty(), "an input and an output must not share a name", Value{both});
    std::vector<const char *> names{"indices", "scores", "tokens"};
    const bool headed = !asked.output("tokens") && asked.output("logits");  // as Manifest::gives has it
    const bool classifies = headed && !asked.output("pred_boxes");
    if (headed) names = {"indices", "scores", "logits"};
    for (const char *name : names)
        must(asked.output(name), std::string("the outputs of encoder must have ") + name, names_of(members(&outputs)));
    must(!members(&inputs).empty(), "encoder must have an input", "[]");

    Value batch{asked.tiles};
    for (auto input = members(&inputs).rbegin(); input != members(&inputs).rend(); ++input) {
        const Array &shape = asked.shape(input->second);
        for (auto size = shape.rbegin(); size != shape.rend(); ++size)
            if (size->text()) batch = *size;  // the first one of all that are free
    }
    std::int64_t every = asked.patches();
    if (asked.pooled()) {
        batch = {std::int64_t{1}};
        every = times(every, asked.tiles);
    }
    must(asked.keep <= every, "keep must be at most the " + std::to_string(every) + " patches it is chosen from",
         field(asked.fields, "keep"));
    check_pixels(asked);
    const Value keep{asked.keep};
    check_lead(asked, "tokens", {batch, keep});
    check_lead(asked, "indices", {batch, keep});
    check_lead(asked, "picks", {batch, keep});
    check_lead(asked, "scores", {batch, {every}});
    if (classifies) {
        const Value *labels = asked.fields.find("labels");
        const Array &shape = asked.shape(*asked.output("logits"));
        const Array wanted{batch, {static_cast<std::int64_t>(labels ? items(*labels).size() : 0)}};
        must(is_same(shape, wanted), "logits must be " + bracketed(wanted) + ", one for each of labels",
             repr(bracketed(shape)));
    }
    if (asked.inside()) check_lead(asked, "origin", {batch, {every}});
    for (const auto &[name, dtype] :
         {std::pair("indices", "int32"), {"picks", "int32"}, {"scores", "float32"}, {"origin", "int32"}})
        if (const Value *spec = asked.output(name))
            must(text(field(*spec, "dtype")) == dtype, std::string(name) + " must be " + dtype, field(*spec, "dtype"));
}

// What stands in where nothing is given.
void check_ports(const Asked &asked) {
    static const Value nothing{std::string("nothing")};
    const Value &inputs = field(asked.encoder(), "inputs");
    for (const auto &[name, port] : members(asked.fields.find("ports"))) {
        must(inputs.find(name), "the inputs of encoder must have " + name + ", a port", names_of(members(&inputs)));
        const Value *given = port.find("blank"), &blank = given ? *given : nothing;
        must(blank.null() || blank.whole() || blank.real(),
             "ports[" + repr(name) + "].blank must be a number or null", blank);
    }
}

// Whether a rule says of each of the steps its layer and keep.
bool as_steps(const Array &rules, const Array &steps) {
    if (rules.size() != steps.size()) return false;
    for (std::size_t at = 0; at < rules.size(); ++at) {
        const Value *layer = rules[at].find("layer"), *keep = rules[at].find("keep");
        if (!layer || !keep || !is_same({*layer, *keep}, items(steps[at]))) return false;
    }
    return true;
}

// What shortens the sequence inside the encoder: fewer rows behind each step, and what says where they went.
void check_steps(const Asked &asked) {
    const Value *rule = asked.fields.find("rule"), *given = rule ? rule->find("steps") : nullptr;
    if (!asked.inside() && (!given || given->null())) return;
    const Value *reducer = asked.inside() ? asked.fields.find("inside")->find("reducer") : nullptr;
    if (!reducer || !reducer->text()) throw Wrong("inside must name its reducer");
    static const Array none;
    Array rules;
    for (const Value &one : given && given->array() ? items(*given) : none)
        if (one.object()) rules.push_back(one);
    const Value *steps = asked.fields.find("steps");
    if (rules.empty() || !as_steps(rules, steps ? items(*steps) : none))
        throw Wrong("rule.steps must say layer and keep of every step, as steps does");
    const Value batch = asked.shape(*asked.output("indices"))[0];
    std::int64_t before = 0, rows = asked.patches(), hidden = 0;
    for (std::size_t at = 0; at < rules.size(); ++at) {
        const Value &layer = items(items(*steps)[at])[0], &keep = items(items(*steps)[at])[1];
        const std::string place = std::to_string(whole(layer));
        must(whole(layer) > before, "the layers of steps must rise, behind " + std::to_string(before), layer);
        must(whole(keep) > 0 && whole(keep) < rows,
             "behind layer " + place + " there must be 1.." + std::to_string(rows - 1) + " rows", keep);
        std::int64_t entering;
        if (__builtin_add_overflow(rows, hidden, &entering)) entering = std::numeric_limits<std::int64_t>::max();
        const struct { std::string name; std::int64_t size; const char *dtype; } handed[] = {
            {"trail." + place, entering, "int32"}, {"scores." + place, rows, "float32"}};
        for (const auto &[name, size, dtype] : handed) {
            const Value *spec = asked.output(name.c_str());
            must(spec, "the outputs of encoder must have " + name, names_of(members(&field(asked.encoder(), "outputs"))));
            const Array &shape = asked.shape(*spec), wanted{batch, {size}};
            must(is_same(shape, wanted), name + " must be " + bracketed(wanted), repr(bracketed(shape)));
            must(text(field(*spec, "dtype")) == dtype, name + " must be " + dtype, field(*spec, "dtype"));
        }
        const Value *more = rules[at].find("hidden");
        if (more) must(more->whole() && whole(*more) >= 0, "the hidden rows behind layer " + place + " must be a count", *more);
        hidden = more ? whole(*more) : 0, before = whole(layer), rows = whole(keep);
    }
    must(asked.keep <= rows, "keep must be at most the " + std::to_string(rows) + " rows that the last step leaves",
         field(asked.fields, "keep"));
}

// Without what was given where that is nothing, as Python leaves it out.
void must_be(bool holds, const std::string &rule, const Value &got) {
    if (!holds && got.null()) throw Wrong(rule);
    must(holds, rule, got);
}

bool is_bound(const Value *value) {
    const double most = std::numeric_limits<double>::infinity();
    if (!value) return false;
    if (const std::int64_t *number = value->whole()) return *number > 0;
    return value->real() && *value->real() > 0 && *value->real() < most;
}

bool is_texts(const Value *value) {
    const auto is_text = [](const Value &one) { return one.text() != nullptr; };
    return !value || (value->array() && std::all_of(value->array()->begin(), value->array()->end(), is_text));
}

// What a runtime reads of what is quantised.
void check_quantised(const Asked &asked) {
    const Value *given = asked.fields.find("quantised");
    if (!given || given->null()) return;
    const Value &precision = field(asked.fields, "precision");
    must(text(precision).compare(0, 5, "float") != 0, "what is quantised must be no float", precision);
    static const Value none;
    const Value *bounds = given->find("bounds"), *session = given->find("session");
    bool said = bounds && bounds->object();
    for (const char *name : BOUNDS) said = said && is_bound(bounds->find(name));
    must_be(said, "quantised.bounds must hold " + joined(BOUNDS) + ", each above 0", bounds ? *bounds : none);
    if (!session) return;
    bool lists = session->object() != nullptr;
    if (lists)
        for (const auto &device : *session->object())
            lists = lists && device.second.object() && is_texts(device.second.find("disable"));
    must_be(lists, "quantised.session must hold objects by device, each with a list of names to disable", *session);
}

}  // namespace

void check_agreement(const Value &fields) {
    check_texts(fields, "");
    const Asked asked{fields};
    check_counts(asked);
    check_graphs(asked);
    check_encoder(asked);
    check_ports(asked);
    check_steps(asked);
    check_quantised(asked);
}

}  // namespace edgeprune
