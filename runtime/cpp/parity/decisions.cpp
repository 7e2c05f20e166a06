#include "parity/decisions.hpp"

#include <algorithm>
#include <cmath>

namespace edgeprune::parity {

namespace {

void check_lengths(std::size_t one, std::size_t other) {
    if (one != other)
        throw misfit("operands could not be broadcast together with shapes (", one, ",) (", other, ",)");
}

}  // namespace

const View &Case::line_of(const Tensors &side, const char *name) {
    const View &value = side.at(name);
    if (value.shape.size() != 1) throw misfit(name, " must have one dimension, got ", shown(value.shape));
    return value;
}

double Case::cosine_error() const {
    const std::initializer_list<double> parts{3 * unseen, 2 * eps, COSINE_NOISE};
    return std::max(parts);
}

Floats Case::of_patches(const char *name, std::size_t patches) const {
    const View &value = quantities.at(name);
    if (value.shape.size() != 1 || value.shape[0] != static_cast<std::int64_t>(patches))
        throw misfit(name, " must be [", patches, "], got ", shown(value.shape));
    return floats(value);
}

double Chain::lost() const {
    double most = 0;
    for (const Worth &one : sets) most = higher(most, one.of(one.lost));
    return most;
}

double Chain::blind() const {
    double most = 0;
    for (const Worth &one : sets) most = higher(most, one.of(one.blind));
    return most;
}

int Chain::wrong() const {
    int found = 0;
    for (std::size_t at = 0; at < regret.size(); ++at) found += !(regret[at] <= tolerance[at]);
    return found;
}

int Chain::within() const {
    int found = 0;
    for (std::size_t at = 0; at < regret.size(); ++at) found += regret[at] > 0 && regret[at] <= tolerance[at];
    return found;
}

int Chain::decided() const {
    int found = 0;
    for (std::size_t at = 0; at < regret.size(); ++at) found += margin[at] > tolerance[at] && regret[at] <= 0;
    return found;
}

double Chain::worst() const {
    Floats over;
    for (std::size_t at = 0; at < regret.size(); ++at)
        if (regret[at] > 0) over.push_back(tolerance[at] == 0 ? INFINITE : regret[at] / tolerance[at]);
    return over.empty() ? 0 : highest(over);
}

Mask mask(std::size_t patches, const Places &among) {
    Mask inside(patches, 0);
    for (const auto one : among) inside[place(one, patches)] = 1;
    return inside;
}

Mask all(std::size_t patches) { return Mask(patches, 1); }

Mask operator!(const Mask &one) {
    Mask other(one.size());
    std::transform(one.begin(), one.end(), other.begin(), [](char here) { return static_cast<char>(!here); });
    return other;
}

Places those(const Places &patches, const Mask &inside, bool wanted) {
    Places found;
    for (const auto one : patches)
        if ((inside[place(one, inside.size())] != 0) == wanted) found.push_back(one);
    return found;
}

Chain cut(const Floats &values, const Places &chosen, const Mask &among, double error, double eps) {
    check_lengths(values.size(), among.size());
    Mask left = mask(values.size(), chosen);
    Floats candidates, others;
    for (std::size_t at = 0; at < values.size(); ++at) {
        if (among[at]) candidates.push_back(std::abs(values[at]));
        if (among[at] && !left[at]) others.push_back(values[at]);
    }
    const Floats none(chosen.size(), 0.0);
    const std::vector<Worth> sets{worth_of_cut(values, chosen, among)};
    if (chosen.empty() || others.empty()) return {none, none, Floats(chosen.size(), INFINITE), 0, 0, {}, sets};
    const double best = highest(others), tolerance = 2 * error + eps * highest(candidates);
    Chain chain{none, Floats(chosen.size(), tolerance), none, 0, 0, {}, sets};
    for (std::size_t at = 0; at < chosen.size(); ++at) {
        const double over = best - values[place(chosen[at], values.size())];
        chain.regret[at] = higher(over, 0), chain.margin[at] = std::abs(over);
    }
    return chain;
}

Chain cut(const Floats &values, const Places &chosen, const Mask &among, const Floats &errors, double eps) {
    check_lengths(values.size(), among.size());
    check_lengths(values.size(), errors.size());
    const Places candidates = where(among);
    if (chosen.empty() || candidates.empty()) return cut(values, chosen, among, 0.0, eps);
    Floats falling = taken(values, candidates);
    for (double &one : falling) one = -one;
    const Places order = taken(candidates, ranked(falling));
    const auto size = static_cast<std::int64_t>(chosen.size());
    const auto width = std::max<std::int64_t>(1, std::min<std::int64_t>(NEAR, size / 2));
    const Places near = slice(order, std::max<std::int64_t>(0, size - width), size + width);
    return cut(values, chosen, among, near.empty() ? 0.0 : highest(taken(errors, near)), eps);
}

std::vector<std::string> out_of_order(const Case &one, std::int64_t first, std::int64_t end) {
    if (one.got.find("picks") == nullptr) return {};
    const Floats falling = taken(floats(one.got.at("scores")), slice(one.picks(), first, end));
    for (std::size_t at = 1; at < falling.size(); ++at)
        if (falling[at] - falling[at - 1] > one.eps * std::abs(falling[at]))
            return {"picks must run from the highest score down"};
    return {};
}

Chain joined(const std::vector<Chain> &chains, double error, double relative, std::vector<std::string> defects) {
    Chain all{{}, {}, {}, error, relative, std::move(defects)};
    const auto append = [](Floats &to, const Floats &from) { to.insert(to.end(), from.begin(), from.end()); };
    for (const auto &one : chains) {
        append(all.regret, one.regret), append(all.tolerance, one.tolerance), append(all.margin, one.margin);
        all.error = higher(all.error, one.error), all.relative = higher(all.relative, one.relative);
        all.defects = std::move(all.defects) + one.defects;
        all.sets.insert(all.sets.end(), one.sets.begin(), one.sets.end());
    }
    all.error = largest({all.error}), all.relative = largest({all.relative});
    return all;
}

std::vector<std::string> operator+(std::vector<std::string> one, const std::vector<std::string> &other) {
    one.insert(one.end(), other.begin(), other.end());
    return one;
}

}  // namespace edgeprune::parity
