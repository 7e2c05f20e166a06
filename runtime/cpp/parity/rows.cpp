// Tokens of the same patches, and what else is a row for each of them: how far they lie apart.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "parity/inside.hpp"
#include "parity/outputs.hpp"

namespace edgeprune::parity {

namespace {

// Outputs that are no rows of the kept patches, of another kind than an extra
const char *const NOT_ROWS[] = {"tokens", "indices", "scores", "picks", "origin", "order", "worth"};
// How the names of outputs begin that are kept for the next frame: of all rows in front of a step
const std::string NEXT = "next.";

// Where a patch stands that both have kept: in `indices` of the reference, and in those of the device.
struct Pairs {
    Places at, where;
};

Pairs in_both(const Places &reference, const Places &got) {
    const auto first_places = [](const Places &indices) {
        Places order = up_to(indices.size());
        const auto value = [&](std::int64_t at) { return indices[static_cast<std::size_t>(at)]; };
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value(a) < value(b); });
        order.erase(std::unique(order.begin(), order.end(), [&](auto a, auto b) { return value(a) == value(b); }),
                    order.end());
        return order;
    };
    const Places left = first_places(reference), right = first_places(got);
    Pairs pairs;
    for (std::size_t a = 0, b = 0; a < left.size() && b < right.size();) {
        const auto one = reference[static_cast<std::size_t>(left[a])], other = got[static_cast<std::size_t>(right[b])];
        if (one == other) pairs.at.push_back(left[a]), pairs.where.push_back(right[b]);
        a += one <= other, b += other <= one;
    }
    return pairs;
}

// Of these, the tokens of the same members, which joined them in the same way.
Pairs of_the_same_members(const Tensors &reference, const Tensors &got, const Pairs &pairs) {
    const Places members = places(reference.at("origin")), others = places(got.at("origin"));
    Mask same(members.size(), 1);
    if (const View *order = reference.find("order")) {
        const Places wanted = places(*order), given = places(got.at("order"));
        if (wanted.size() != same.size() || given.size() != same.size())
            throw misfit("order and origin differ in length");
        for (std::size_t at = 0; at < same.size(); ++at) same[at] = wanted[at] == given[at];
    }
    if (members.size() != others.size()) throw misfit("origin must be of ", members.size(), " patches");
    Pairs alike;
    for (std::size_t pair = 0; pair < pairs.at.size(); ++pair) {
        bool whole = true;
        for (std::size_t at = 0; whole && at < members.size(); ++at) {
            const bool member = members[at] == pairs.at[pair];
            whole = member == (others[at] == pairs.where[pair]) && (!member || same[at]);
        }
        if (whole) alike.at.push_back(pairs.at[pair]), alike.where.push_back(pairs.where[pair]);
    }
    return alike;
}

}  // namespace

View rows_of(const View &value, const Places &at, std::vector<unsigned char> &memory) {
    const std::size_t rows = length(value), nbytes = rows ? value.count() / rows * size_of(value.dtype) : 0;
    memory.resize(at.size() * nbytes + 1);
    for (std::size_t row = 0; row < at.size(); ++row)
        std::memcpy(memory.data() + row * nbytes, value.as<unsigned char>() + place(at[row], rows) * nbytes, nbytes);
    View taken{value.dtype, value.shape, memory.data()};
    taken.shape[0] = static_cast<std::int64_t>(at.size());
    return taken;
}

Floats relative(const View &reference, const View &got) {
    if (reference.shape != got.shape || reference.shape.empty())
        throw misfit("operands could not be broadcast together with shapes ", shown(reference.shape), " ",
                     shown(got.shape));
    const Floats wanted = floats(reference), given = floats(got);
    const auto width = static_cast<std::size_t>(reference.shape.back());
    std::size_t lines = 1;
    for (std::size_t at = 0; at + 1 < reference.shape.size(); ++at)
        lines *= static_cast<std::size_t>(reference.shape[at]);
    Floats errors(lines), line(width), apart(width);
    for (std::size_t at = 0; at < lines; ++at) {
        const auto first = static_cast<std::ptrdiff_t>(at * width), end = first + static_cast<std::ptrdiff_t>(width);
        std::copy(wanted.begin() + first, wanted.begin() + end, line.begin());
        std::transform(given.begin() + first, given.begin() + end, line.begin(), apart.begin(), std::minus<>());
        const double difference = norm(apart), size = norm(line);
        errors[at] = difference == 0 ? 0 : size == 0 ? INFINITE : difference / size;
    }
    return errors;
}

Rows rows(const Tensors &reference, const Tensors &got, const Json &steps, bool undecided) {
    Rows found;
    if (undecided) return found;
    std::vector<std::string> extras;
    for (const auto &[name, value] : reference)
        if (std::find(std::begin(NOT_ROWS), std::end(NOT_ROWS), name) == std::end(NOT_ROWS) && !is_of_step(name)) extras.push_back(name);
    if (reference.find("tokens") == nullptr) {
        if (extras.empty()) throw misfit("need at least one array to concatenate");
        for (const auto &name : extras) {
            const std::size_t rank = reference.at(name).shape.size();
            if (rank != 1 && rank != 2) throw misfit(name, " must be [B, T, D] or [B, D]");
            const Floats errors = relative(reference.at(name), got.at(name));
            found.extras.emplace_back(name, largest(errors));
            found.errors.insert(found.errors.end(), errors.begin(), errors.end());
            found.count += errors.size();
        }
        return found;
    }
    const auto kept = [&](const Tensors &side) {
        const Places patches = places(side.at("indices"));
        return steps.empty() ? patches : taken(places_behind(side, steps), patches);
    };
    Pairs pairs = in_both(kept(reference), kept(got));
    if (reference.find("origin") != nullptr && steps.empty()) pairs = of_the_same_members(reference, got, pairs);
    std::vector<unsigned char> memory, more;
    for (const auto &name : extras) {
        const bool kept_on = name.compare(0, NEXT.size(), NEXT) == 0;
        const View one = kept_on ? reference.at(name) : rows_of(reference.at(name), pairs.at, memory);
        const View other = kept_on ? got.at(name) : rows_of(got.at(name), pairs.where, more);
        const double apart = whole(one.dtype) ? (equal(one, other) ? 0 : INFINITE) : largest(relative(one, other));
        found.extras.emplace_back(name, apart);
    }
    found.count = pairs.at.size();
    found.errors = relative(rows_of(reference.at("tokens"), pairs.at, memory),
                            rows_of(got.at("tokens"), pairs.where, more));
    return found;
}

}  // namespace edgeprune::parity
