#include "parity/numbers.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <numeric>

#include "parity/parity.hpp"

namespace edgeprune::parity {

namespace {

// Element by element, from memory that may be aligned to nothing.
template <class T, class Out, class Convert>
void read(const View &value, std::vector<Out> &out, Convert convert) {
    const auto *bytes = static_cast<const unsigned char *>(value.data);
    for (std::size_t at = 0; at < out.size(); ++at) {
        T one;
        std::memcpy(&one, bytes + at * sizeof(T), sizeof(T));
        out[at] = convert(one);
    }
}

template <class Out, class OfFloat>
std::vector<Out> all_of(const View &value, OfFloat of_float) {
    std::vector<Out> out(value.count());
    const auto same = [](auto one) { return static_cast<Out>(one); };
    switch (value.dtype) {
        case EDGEPRUNE_FLOAT32: read<float>(value, out, of_float); break;
        case EDGEPRUNE_FLOAT16:
            read<std::uint16_t>(value, out, [&](auto one) { return of_float(float_of(one)); });
            break;
        case EDGEPRUNE_UINT8: read<std::uint8_t>(value, out, same); break;
        case EDGEPRUNE_INT8: read<std::int8_t>(value, out, same); break;
        case EDGEPRUNE_INT32: read<std::int32_t>(value, out, same); break;
        case EDGEPRUNE_INT64: read<std::int64_t>(value, out, same); break;
        case EDGEPRUNE_BOOL: read<std::uint8_t>(value, out, same); break;
    }
    return out;
}

std::int64_t whole_of(double value) {  // what numpy makes of those that are beyond, on most machines
    const bool fits = value > -9.2e18 && value < 9.2e18;
    return fits ? static_cast<std::int64_t>(value) : std::numeric_limits<std::int64_t>::min();
}

const Json &parameter(const Json &rule, const char *name) {
    const auto found = rule.is_object() ? rule.find(name) : rule.end();
    if (!rule.is_object() || found == rule.end()) throw misfit("'", name, "'");
    return *found;
}

std::int64_t whole_of(const Json &value, const char *name) {
    if (value.is_number_unsigned()) {
        const auto given = value.get<std::uint64_t>();
        if (given <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
            return static_cast<std::int64_t>(given);
    } else if (value.is_number_integer()) {
        return value.get<std::int64_t>();
    } else if (value.is_boolean()) {
        return value.get<bool>() ? 1 : 0;
    } else if (value.is_number()) {
        return whole_of(value.get<double>());
    }
    throw misfit(name, " of the rule must be a whole number");
}

}  // namespace

Floats floats(const View &value) {
    return all_of<double>(value, [](float one) { return static_cast<double>(one); });
}

Places places(const View &value) {
    return all_of<std::int64_t>(value, [](float one) { return whole_of(static_cast<double>(one)); });
}

Matrix square(const View &value, std::size_t size, const std::string &name) {
    const auto side = static_cast<std::int64_t>(size);
    if (value.shape.size() != 2 || value.shape[0] != side || value.shape[1] != side)
        throw misfit(name, " must be [", side, ", ", side, "], got ", shown(value.shape));
    Matrix full(size, size);
    full.values = floats(value);
    return full;
}

std::size_t length(const View &value) {
    if (value.shape.empty()) throw misfit("len() of unsized object");
    return static_cast<std::size_t>(value.shape[0]);
}

bool whole(DType dtype) { return dtype == EDGEPRUNE_INT8 || dtype == EDGEPRUNE_INT32 || dtype == EDGEPRUNE_INT64; }
bool floating(DType dtype) { return dtype == EDGEPRUNE_FLOAT32 || dtype == EDGEPRUNE_FLOAT16; }

bool equal(const View &one, const View &other) {
    if (one.shape != other.shape) return false;
    return floating(one.dtype) || floating(other.dtype) ? floats(one) == floats(other) : places(one) == places(other);
}

std::string shown(const std::vector<std::int64_t> &shape) {
    std::string text;
    for (const auto size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "[" + text + "]";
}

double higher(double one, double other) { return std::isnan(one) || one > other ? one : other; }
double lower(double one, double other) { return std::isnan(one) || one < other ? one : other; }

Floats left_of(const Floats &values, const Mask &free) {
    Floats left;
    for (std::size_t at = 0; at < values.size(); ++at)
        if (free[at]) left.push_back(values[at]);
    return left;
}

double highest(const Floats &values) {
    if (values.empty()) throw misfit("zero-size array to reduction operation maximum which has no identity");
    return std::accumulate(values.begin() + 1, values.end(), values.front(), higher);
}

double lowest(const Floats &values) {
    if (values.empty()) throw misfit("zero-size array to reduction operation minimum which has no identity");
    return std::accumulate(values.begin() + 1, values.end(), values.front(), lower);
}

double largest(const Floats &values) { return std::accumulate(values.begin(), values.end(), 0.0, higher); }
double largest(std::initializer_list<double> values) {
    return std::accumulate(values.begin(), values.end(), 0.0, higher);
}

double sum(const double *values, std::size_t count) {
    if (count < 8) {
        double total = 0;
        for (std::size_t at = 0; at < count; ++at) total += values[at];
        return total;
    }
    if (count <= 128) {
        double part[8];
        std::copy(values, values + 8, part);
        const std::size_t end = count - count % 8;
        for (std::size_t at = 8; at < end; at += 8)
            for (std::size_t lane = 0; lane < 8; ++lane) part[lane] += values[at + lane];
        double total = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
        for (std::size_t at = end; at < count; ++at) total += values[at];
        return total;
    }
    const std::size_t half = count / 2 - count / 2 % 8;
    return sum(values, half) + sum(values + half, count - half);
}

double norm(const Floats &values) {
    Floats squares(values.size());
    std::transform(values.begin(), values.end(), squares.begin(), [](double one) { return one * one; });
    return std::sqrt(sum(squares.data(), squares.size()));
}

Places ranked(const Floats &values) {
    Places order = up_to(values.size());
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t one, std::int64_t other) {
        const double a = values[static_cast<std::size_t>(one)], b = values[static_cast<std::size_t>(other)];
        return a < b || (std::isnan(b) && !std::isnan(a));
    });
    return order;
}

Places sorted(Places values) {
    std::sort(values.begin(), values.end());
    return values;
}

Places up_to(std::size_t end) {
    Places all(end);
    std::iota(all.begin(), all.end(), std::int64_t{0});
    return all;
}

Places where(const Mask &mask) {
    Places found;
    for (std::size_t at = 0; at < mask.size(); ++at)
        if (mask[at]) found.push_back(static_cast<std::int64_t>(at));
    return found;
}

Places without(const Places &all, const Places &gone) {
    Places from = sorted(all), left;
    const Places away = sorted(gone);
    from.erase(std::unique(from.begin(), from.end()), from.end());
    std::set_difference(from.begin(), from.end(), away.begin(), away.end(), std::back_inserter(left));
    return left;
}

Places joined(Places one, const Places &other) {
    one.insert(one.end(), other.begin(), other.end());
    return one;
}

Places every_other(const Places &values, std::size_t first) {
    Places found;
    for (std::size_t at = first; at < values.size(); at += 2) found.push_back(values[at]);
    return found;
}

std::size_t place(std::int64_t at, std::size_t size) {
    const auto end = static_cast<std::int64_t>(size);
    if (at < -end || at >= end) throw misfit("index ", at, " is out of bounds for axis 0 with size ", size);
    return static_cast<std::size_t>(at < 0 ? at + end : at);
}

std::size_t count(const Mask &mask) {
    return static_cast<std::size_t>(std::count_if(mask.begin(), mask.end(), [](char one) { return one != 0; }));
}

double number(const Json &rule, const char *name) {
    const Json &value = parameter(rule, name);
    if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
    if (!value.is_number()) throw misfit(name, " of the rule must be a number");
    return value.get<double>();
}

std::int64_t whole_number(const Json &rule, const char *name) { return whole_of(parameter(rule, name), name); }

Places whole_numbers(const Json &rule, const char *name) {
    const Json &value = parameter(rule, name);
    if (!value.is_array()) throw misfit(name, " of the rule must be whole numbers");
    Places found;
    for (const auto &one : value) found.push_back(whole_of(one, name));
    return found;
}

std::string text(const Json &rule, const char *name) {
    const Json &value = parameter(rule, name);
    if (!value.is_string()) throw misfit(name, " of the rule must be a name");
    return value.get<std::string>();
}

bool said(const Json &rule, const char *name) {
    const auto found = rule.find(name);
    if (found == rule.end() || found->is_null()) return false;
    if (found->is_boolean()) return found->get<bool>();
    if (found->is_number()) return found->get<double>() != 0;
    return found->is_string() ? !found->get_ref<const std::string &>().empty() : !found->empty();
}

std::string formatted(const char *format, double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    char text[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    std::snprintf(text, sizeof text, format, value);
#pragma GCC diagnostic pop
    return text;
}

}  // namespace edgeprune::parity
