#include "parity/regret.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "error.hpp"
#include "parity/parity.hpp"

namespace edgeprune::parity {

namespace {

const char *const FLAT[] = {"flat", "black", "white"};

std::string percent(double share) { return formatted("%.2f", 100 * share) + "%"; }

}  // namespace

double Worth::of(double part) const {
    return size != 0 ? part / size : part != 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

Worth worth(const Floats &best, const Floats &chosen, const Floats &mean) {
    Floats lost(best.size()), blind(best.size()), sizes(best.size());
    for (std::size_t at = 0; at < best.size(); ++at)
        lost[at] = best[at] - chosen[at], blind[at] = best[at] - mean[at], sizes[at] = std::abs(best[at]);
    return {sum(lost.data(), lost.size()), sum(blind.data(), blind.size()), sum(sizes.data(), sizes.size())};
}

Worth worth_of_cut(const Floats &values, const Places &chosen, const Mask &among) {
    if (chosen.empty()) return {};
    Floats candidates;
    for (std::size_t at = 0; at < values.size(); ++at)
        if (among[at]) candidates.push_back(values[at]);
    const double mean = mean_of(candidates);
    Floats best = candidates, given = taken(values, chosen);
    std::sort(best.begin(), best.end()), std::sort(given.begin(), given.end());
    if (best.size() < given.size())
        throw misfit("operands could not be broadcast together with shapes (", best.size(), ",) (", given.size(), ",)");
    best.erase(best.begin(), best.end() - static_cast<std::ptrdiff_t>(given.size()));
    return worth(best, given, Floats(best.size(), mean));
}

Worth together(const std::vector<Worth> &sets) {
    Worth all;
    for (const Worth &one : sets) all.lost += one.lost, all.blind += one.blind, all.size += one.size;
    return all;
}

double mean_of(const Floats &values) { return sum(values.data(), values.size()) / static_cast<double>(values.size()); }

double median(Floats values) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    const std::size_t middle = values.size() / 2;
    return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::optional<Bounds> bounds_of(const Json &quantised) {
    if (quantised.is_null()) return {};
    const Json &given = quantised.at("bounds");
    return Bounds{number(given, "regret"), number(given, "token_median"), number(given, "token_each")};
}

bool is_flat(const std::string &probe) {
    return std::find(std::begin(FLAT), std::end(FLAT), probe) != std::end(FLAT);
}

Json of_probe(Json quantised, const std::string &probe) {
    if (!quantised.is_null() && is_flat(probe)) quantised.at("bounds")["regret"] = std::numeric_limits<double>::infinity();
    return quantised;
}

std::vector<std::string> beyond(const Bounds &bounds, double lost, const Floats &errors, const std::string &what) {
    std::vector<std::string> found;
    if (!(lost <= bounds.regret))
        found.push_back(line("the choice is worth ", percent(lost), " less than the best one, ", percent(bounds.regret),
                             " are allowed"));
    const double middle = median(errors), most = largest(errors);
    if (!(middle <= bounds.token_median))
        found.push_back(line(what, " differ by ", formatted("%.2g", middle), " of their length in the median, ",
                             formatted("%g", bounds.token_median), " is allowed"));
    if (!(most <= bounds.token_each))
        found.push_back(line(what, " differ by up to ", formatted("%.2g", most), " of their length, ",
                             formatted("%g", bounds.token_each), " is allowed"));
    return found;
}

}  // namespace edgeprune::parity
