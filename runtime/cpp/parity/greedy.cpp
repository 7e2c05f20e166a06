// `greedy`: one pick after the other, each of the highest gain given those before it.
//
//     gains[t] = objective given the device's own first t picks                 by the reference's quantities
//     regret   = the highest gain of a patch that was free - that of the pick
//     err      = |reported gain - gain| over the eight picks on either side
//     may be   = bound x what attention and the like have in the gain + (error of a cosine) x what becomes of it
#include "parity/objectives.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

// Picks on either side that the error of one is taken of: gains fall by orders of magnitude along a chain
constexpr std::int64_t BESIDE = 8;

using Bytes = std::vector<unsigned char>;

// Python's [start:end] of so many: the first of them, and how many they are.
struct Part {
    std::size_t first, count;
    Part(std::int64_t start, std::int64_t end, std::int64_t size) {
        const auto inside = [size](std::int64_t at) {
            return std::clamp<std::int64_t>(at < 0 ? (at < -size ? 0 : at + size) : at, 0, size);
        };
        first = static_cast<std::size_t>(inside(start));
        count = static_cast<std::size_t>(std::max<std::int64_t>(0, inside(end) - inside(start)));
    }
};

// Of some patches: [N] and [N, N]; one number stays. memory: of what is not in one piece
View part_of(const View &value, std::int64_t start, std::int64_t end, std::vector<Bytes> &memory) {
    if (value.shape.size() == 1 && value.shape[0] == 1) return value;
    if (value.shape.empty() || value.shape.size() > 2) throw misfit("a quantity in parts must be [N] or [N, N]");
    const std::size_t nbytes = size_of(value.dtype);
    const Part rows(start, end, value.shape[0]);
    const auto *from = value.as<unsigned char>();
    if (value.shape.size() == 1)
        return {value.dtype, {static_cast<std::int64_t>(rows.count)}, from + rows.first * nbytes};
    const Part columns(start, end, value.shape[1]);
    const std::size_t line = static_cast<std::size_t>(value.shape[1]) * nbytes, cut = columns.count * nbytes;
    memory.emplace_back(rows.count * cut + 1);
    for (std::size_t row = 0; row < rows.count; ++row)
        std::memcpy(memory.back().data() + row * cut, from + (rows.first + row) * line + columns.first * nbytes, cut);
    return {value.dtype, {static_cast<std::int64_t>(rows.count), static_cast<std::int64_t>(columns.count)},
            memory.back().data()};
}

// Patches that are picked behind all others, where a mask says so
Mask barred_of(const Case &one, std::size_t patches) {
    Mask barred(patches, 0);
    if (!one.quantities.find("barred")) return barred;
    const Floats given = one.of_patches("barred", patches);
    for (std::size_t at = 0; at < patches; ++at) barred[at] = given[at] > 0;
    return barred;
}

// Of the patches that are free those that are not barred, as long as there is one.
Mask among_of(const Mask &free, const Mask &barred) {
    Mask allowed = free;
    for (std::size_t at = 0; at < allowed.size(); ++at) allowed[at] = free[at] && !barred[at];
    return count(allowed) ? allowed : free;
}

Chain chain_of(const Case &one) {
    const Floats reported = floats(one.got.at("scores"));
    const std::size_t patches = reported.size();
    const auto objective = objective_of(one, patches);
    const Places picks = one.picks();
    Mask free = all(patches);
    const Mask barred = barred_of(one, patches);
    Chain chain;
    Floats scales, noise, measured, errors, best, chosen, mean;
    for (const auto given : picks) {
        const std::size_t pick = place(given, patches);
        const Floats gains = objective->gains();
        Mask among = among_of(free, barred);
        Floats sizes(patches);
        std::transform(gains.begin(), gains.end(), sizes.begin(), [](double gain) { return std::abs(gain); });
        noise.push_back(objective->noise(pick)), measured.push_back(objective->measured(pick));
        scales.push_back(objective->falls()
                             ? std::max(std::abs(highest(left_of(gains, among))), std::abs(gains[pick]))
                             : highest(left_of(sizes, among)));
        errors.push_back(std::abs(reported[pick] - gains[pick]));
        const Floats candidates = left_of(gains, among);
        best.push_back(highest(candidates)), mean.push_back(mean_of(candidates)), chosen.push_back(gains[pick]);
        if (!among[pick])
            return joined({}, 0, 0,
                          {"pick " + std::to_string(best.size()) + " is barred, and another patch is left that is not"});
        free[pick] = among[pick] = 0;
        const bool last = count(among) == 0;
        const double over = last ? 0 : highest(left_of(gains, among)) - gains[pick];
        chain.regret.push_back(over < 0 ? 0 : over), chain.margin.push_back(last ? INFINITE : std::abs(over));
        objective->take(pick);
    }
    Floats relative(picks.size());
    for (std::size_t at = 0; at < picks.size(); ++at) {
        const auto here = static_cast<std::int64_t>(at);
        const double near = highest(slice(errors, std::max<std::int64_t>(0, here - BESIDE), here + BESIDE + 1));
        chain.tolerance.push_back(2 * near + one.eps * scales[at] + 2 * COSINE_NOISE * noise[at]);
        // One scale for all would let a gain be anything where it is small beside the first. Roundings add up.
        const double rounding = 4 * COSINE_NOISE * std::sqrt(1 + static_cast<double>(at));
        relative[at] = errors[at] / (measured[at] + noise[at] * (one.cosine_error() + rounding) / one.bound);
    }
    chain.error = largest(errors), chain.relative = largest(relative), chain.sets = {worth(best, chosen, mean)};
    return chain;
}

// [first patch, end, picks], each
std::vector<Places> parts_of(const Json &rule) {
    const auto is_whole = [](const Json &one) { return one.is_number_integer() || one.is_boolean(); };
    const auto is_part = [&](const Json &one) {
        return one.is_array() && one.size() == 3 && std::all_of(one.begin(), one.end(), is_whole);
    };
    const Json &given = rule["parts"];
    if (!given.is_array() || !std::all_of(given.begin(), given.end(), is_part))
        throw misfit("parts of the rule must be [[first patch, end, picks], ...], whole numbers");
    std::vector<Places> parts;
    for (const Json &one : given) {
        Json part = Json::object();
        part["part"] = one;
        parts.push_back(whole_numbers(part, "part"));
    }
    return parts;
}

}  // namespace

// `parts` [[first patch, end, picks], ...]: of these rows of patches so many are chosen, one part after the other.
Chain greedy(const Case &one) {
    if (!said(one.rule, "parts")) return chain_of(one);
    const Places every = one.picks();
    std::int64_t first = 0;
    std::vector<Chain> chains;
    for (const Places &part : parts_of(one.rule)) {
        const std::int64_t start = part[0], end = part[1], count = part[2];
        std::int64_t last;
        if (__builtin_add_overflow(first, count, &last)) throw misfit("parts of the rule must be of the picks");
        Places picks = slice(every, first, last);
        const bool inside = std::all_of(picks.begin(), picks.end(), [&](auto at) { return at >= start && at < end; });
        if (static_cast<std::int64_t>(picks.size()) != count || !inside)
            return joined({}, 0, 0,
                          {"picks " + std::to_string(first) + " to " + std::to_string(last) + " must be of patches " +
                           std::to_string(start) + " to " + std::to_string(end)});
        for (auto &at : picks) at -= start;
        std::vector<Bytes> memory;
        Tensors got, quantities;
        got.set("picks", {EDGEPRUNE_INT64, {count}, picks.data()});
        const View &scores = Case::line_of(one.got, "scores");
        const Part own(start, end, scores.shape[0]);
        got.set("scores", {scores.dtype, {static_cast<std::int64_t>(own.count)},
                           scores.as<unsigned char>() + own.first * size_of(scores.dtype)});
        for (const auto &[name, value] : one.quantities) quantities.set(name, part_of(value, start, end, memory));
        chains.push_back(chain_of({one.reference, got, quantities, one.rule, one.bound, one.eps, one.unseen}));
        first = last;
    }
    return joined(chains);
}

}  // namespace edgeprune::parity
