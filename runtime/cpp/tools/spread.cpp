#include "tools/spread.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>

namespace edgeprune::tools {
namespace {

constexpr std::size_t LEAST_ROUNDS = 6, DRAWS = 1000;
constexpr double NARROW = 0.05, RESTLESS = 1.3, CHANCE = 95;

std::string number(double value, int digits) {
    char text[40];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return text;
}

double median(const Seconds &values) { return percentile(values, 50); }

double spread(const Seconds &values) { return percentile(values, 95) / median(values); }

// Ratios of rounds drawn again, in runs of neighbours around the end: a machine that is busy for a second slows all that
// ran in it.
Seconds drawn(const Seconds &seconds, const Seconds &other) {
    const std::size_t rounds = seconds.size();
    const auto length = static_cast<std::size_t>(std::sqrt(static_cast<double>(rounds - 1))) + 1;
    std::mt19937_64 generator(0);
    Seconds ratios, one(rounds), two(rounds);
    for (std::size_t draw = 0; draw < DRAWS; ++draw) {
        for (std::size_t at = 0; at < rounds;) {
            const auto start = static_cast<std::size_t>(generator() % rounds);
            for (std::size_t next = 0; next < length && at < rounds; ++next, ++at) {
                one[at] = seconds[(start + next) % rounds];
                two[at] = other[(start + next) % rounds];
            }
        }
        ratios.push_back(median(one) / median(two));
    }
    return ratios;
}

}  // namespace

double percentile(Seconds values, double percent) {
    const double place = percent / 100 * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::ptrdiff_t>(place);
    const auto first = values.begin() + below;
    std::nth_element(values.begin(), first, values.end());
    if (first + 1 == values.end()) return *first;
    const double above = *std::min_element(first + 1, values.end());
    return *first + (above - *first) * (place - static_cast<double>(below));
}

Ratio ratio_of(const Seconds &seconds, const Seconds &other, const std::string &name, const std::string &other_name) {
    Ratio ratio;
    ratio.value = median(seconds) / median(other);
    if (seconds.size() < LEAST_ROUNDS) {
        ratio.doubt = std::to_string(seconds.size()) + " rounds say too little, at least 6 are needed";
        return ratio;
    }
    const Seconds again = drawn(seconds, other);
    ratio.has_interval = true;
    ratio.interval = {percentile(again, (100 - CHANCE) / 2), percentile(again, (100 + CHANCE) / 2)};
    const double own = spread(seconds), others = spread(other), worst = std::max(own, others);
    if (!(worst <= RESTLESS))
        ratio.doubt = "the machine is restless: p95 of " + (own >= others ? name : other_name) + " is " + number(worst, 2) +
                      " times its median";
    else if (!(ratio.interval.second - ratio.interval.first <= NARROW * ratio.value))
        ratio.doubt = "it lies anywhere in " + number(ratio.interval.first, 3) + ".." + number(ratio.interval.second, 3);
    return ratio;
}

bool settled(const std::map<std::string, Seconds> &times, const std::string &name) {
    for (const auto &[other, seconds] : times)
        if (other != name && !ratio_of(times.at(name), seconds, name, other).doubt.empty()) return false;
    return true;
}

}  // namespace edgeprune::tools
