// Is it the same output? The device's own decisions are judged, each given those before it, by the reference's numbers.
//
//     1  quantities   what the device ranked by is, within the bound, what the reference computes for them
//     2  decisions    no regret above its tolerance (`decisions`); the rule of the method says what a decision is
//     3  tokens       that are of the same patches agree within the bound, relative, each
//     4  shape        indices ascend, are those of `picks` and the K highest of the own scores; scores are float32
//
// Where tokens are dropped inside the encoder every output hangs on all that are kept: they are compared only where the
// kept sets are equal; where steps shorten the sequence on the way (`inside`), where all of them did the same.
#include "parity/verdict.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "parity/inside.hpp"
#include "parity/outputs.hpp"
#include "parity/regret.hpp"
#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

// Two float32 executors that sum in another order differ by some 1e-6 after a dozen layers, a wrong formula by 1e-2;
// float16 keeps 11 bits, 5e-4 per rounding, and adds up over the layers.
struct Precision {
    double bound, eps;
};
Precision precision_of(const std::string &dtype) {
    if (dtype == "float32") return {1e-4, 1.0 / (1 << 23)};
    if (dtype == "float16") return {1e-2, 1.0 / (1 << 10)};
    throw misfit("dtype must be one of float32, float16, got ", dtype);
}

struct Rule {
    const char *name;
    Chain (*judge)(const Case &);
};
constexpr Rule RULES[] = {{"topk", topk},     {"fixed", fixed}, {"stages", stages}, {"greedy", greedy}, {"thin", thin},
                          {"chunks", chunks}, {"match", match}, {"spaced", spaced}, {"groups", groups},
                          {"forest", forest}};

std::string joined(const std::vector<std::pair<std::string, double>> &extras) {
    std::string names;
    for (const auto &[name, error] : extras) names += (names.empty() ? "" : " or ") + name;
    return names;
}

// Why one image fails where every decision is held against it; apart: the largest error of `what`
std::vector<std::string> wrong(const Chain &chain, double apart, double bound, const std::string &dtype,
                               const std::string &what) {
    std::vector<std::string> found;
    const std::string allows = line(", ", dtype, " allows ", formatted("%g", bound));
    if (!(chain.relative <= bound))
        found.push_back(line("scores differ by ", formatted("%.2g", chain.relative), " of the reference's", allows));
    if (chain.wrong())
        found.push_back(line(chain.wrong(), " of ", chain.regret.size(), " decisions are wrong: something better was ",
                             "there, by up to ", formatted("%.3g", chain.worst()), " times what rounding explains"));
    if (!(apart <= bound))
        found.push_back(line(what, " differ by up to ", formatted("%.2g", apart), " of their length", allows));
    return found;
}

Verdict judge(const std::string &name, const Tensors &reference, const Tensors &got, const Tensors &quantities,
              const std::string &dtype, const Json &given, const Rule &rule, bool whole,
              const std::optional<Bounds> &bounds) {
    const double bound = bounds ? bounds->token_each : precision_of(dtype).bound, eps = precision_of(dtype).eps;
    const bool same = equal(reference.at("indices"), got.at("indices"));
    const Json &steps = steps_of(given);
    const Rows compared = rows(reference, got, steps, steps.empty() ? whole && !same && !bounds : !followed(reference, got));
    const double apart = largest(compared.errors);
    const double unseen = compared.count == 0 ? bound : bound < apart ? bound : apart;
    const Case one{reference, got, quantities, given, bound, eps, unseen};
    const Chain chain = steps.empty() ? rule.judge(one) : with_steps(one, steps, rule.judge);
    const bool tokens = reference.find("tokens") != nullptr;
    Verdict verdict;
    const auto because = [&](const std::string &reason) { verdict.reasons.push_back(name + reason); };
    for (const auto &defect : chain.defects) because(defect);
    const std::string what = tokens ? "tokens" : joined(compared.extras);
    for (const auto &one_reason : bounds ? beyond(*bounds, chain.lost(), compared.errors, what)
                                         : wrong(chain, apart, bound, dtype, what))
        because(one_reason);
    bool halves = rounded(reference.at("scores"), got.at("scores"), std::strcmp(rule.name, "greedy") == 0);
    for (const Json &step : steps) {
        const std::string ranked = name_of_step("scores.", step);
        halves = halves || rounded(reference.at(ranked), got.at(ranked), !said(step, "shares"));
    }
    if (halves) because("every score is a float16 number, so they were rounded; they must be computed in float32");
    const std::string allows = bounds ? formatted("%g", bound) + " is allowed"
                                      : line(dtype, " allows ", formatted("%g", bound));
    for (const auto &[extra, error] : compared.extras)
        if (!(error <= bound) && tokens)
            because(line(extra, " differs by up to ", formatted("%.2g", error), " of its length, ", allows));
    verdict.images = 1, verdict.equal_sets = same;
    verdict.decisions = static_cast<int>(chain.regret.size());
    verdict.decided = chain.decided(), verdict.within = chain.within(), verdict.wrong = chain.wrong();
    verdict.regret = chain.worst(), verdict.error = chain.error, verdict.error_relative = chain.relative;
    verdict.lost = chain.lost(), verdict.blind = chain.blind(), verdict.token_median = median(compared.errors);
    verdict.token_error = apart, verdict.tokens = static_cast<int>(compared.count);
    return verdict;
}

}  // namespace

std::string rule_names() {
    std::string names;
    for (const Rule &rule : RULES) names += (names.empty() ? "" : ", ") + std::string(rule.name);
    return names;
}

bool is_rule(const Json &name) {
    if (!name.is_string()) return false;
    for (const Rule &rule : RULES)
        if (name.get_ref<const std::string &>() == rule.name) return true;
    return false;
}

void Tensors::set(const std::string &name, const View &value) {
    for (auto &[have, old] : named_)
        if (have == name) {
            old = value;
            return;
        }
    named_.emplace_back(name, value);
}

const View *Tensors::find(const std::string &name) const {
    for (const auto &[have, value] : named_)
        if (have == name) return &value;
    return nullptr;
}

const View &Tensors::at(const std::string &name) const {
    const View *value = find(name);
    if (value == nullptr) throw misfit("'", name, "'");
    return *value;
}

Json Verdict::to_json() const {
    const auto finite = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
    return {{"passed", passed()},
            {"images", images},
            {"equal_sets", equal_sets},
            {"decisions", decisions},
            {"decided", decided},
            {"within", within},
            {"wrong", wrong},
            {"regret", finite(regret)},
            {"lost", finite(lost)},
            {"blind", finite(blind)},
            {"error", finite(error)},
            {"error_relative", finite(error_relative)},
            {"token_error", finite(token_error)},
            {"token_median", finite(token_median)},
            {"tokens", tokens},
            {"reasons", reasons}};
}

Verdict compare(const Tensors &reference, const Tensors &got, const std::string &dtype, const Json &rule,
                const Tensors &quantities, bool whole, const Json &quantised) {
    precision_of(dtype);
    const std::optional<Bounds> bounds = bounds_of(quantised);
    const std::string name = text(rule, "name");
    const Rule *judged = nullptr;
    for (const Rule &one : RULES)
        if (name == one.name) judged = &one;
    if (judged == nullptr) throw misfit("the rule of parity must be one of ", rule_names(), ", got ", name);
    const std::size_t images = length(reference.at("indices"));
    Verdict malformed;
    malformed.reasons = not_finite(reference, quantities, name == "greedy" || !steps_of(rule).empty());
    if (malformed.reasons.empty()) malformed.reasons = defects_of(reference, got, dtype, rule);
    if (!malformed.reasons.empty()) {
        malformed.images = static_cast<int>(images);
        malformed.regret = malformed.lost = malformed.error = malformed.error_relative = INFINITE;
        malformed.token_error = malformed.token_median = INFINITE;
        return malformed;
    }
    std::vector<Verdict> verdicts;
    for (std::size_t at = 0; at < images; ++at) {
        const Image one = image_of(reference, at, images), other = image_of(got, at, images),
                    replayed = image_of(quantities, at, images);
        const std::string shown = images > 1 ? line("image ", at, ": ") : "";
        verdicts.push_back(judge(shown, one.tensors, other.tensors, replayed.tensors, dtype, rule, *judged,
                                 whole || said(rule, "whole"), bounds));
    }
    return worst(verdicts);
}

Verdict worst(const std::vector<Verdict> &verdicts) {
    Verdict all;
    all.blind = verdicts.empty() ? 0 : INFINITE;
    for (const auto &one : verdicts) {
        all.blind = std::min(all.blind, one.blind), all.lost = largest({all.lost, one.lost});
        all.token_median = largest({all.token_median, one.token_median});
        all.images += one.images, all.equal_sets += one.equal_sets, all.decisions += one.decisions;
        all.decided += one.decided, all.within += one.within, all.wrong += one.wrong, all.tokens += one.tokens;
        all.regret = largest({all.regret, one.regret}), all.error = largest({all.error, one.error});
        all.error_relative = largest({all.error_relative, one.error_relative});
        all.token_error = largest({all.token_error, one.token_error});
        all.reasons = std::move(all.reasons) + one.reasons;
    }
    return all;
}

}  // namespace edgeprune::parity
