// What the rules need of numpy, with numpy's answers: NaN that is not passed by, stable sorts, sums in numpy's order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "tensor.hpp"

namespace edgeprune::parity {

using Floats = std::vector<double>;
using Places = std::vector<std::int64_t>;
using Mask = std::vector<char>;

struct Matrix {
    std::size_t rows = 0, columns = 0;
    Floats values;

    Matrix() = default;
    Matrix(std::size_t rows, std::size_t columns) : rows(rows), columns(columns), values(rows * columns) {}
    double *operator[](std::size_t row) { return values.data() + row * columns; }
    const double *operator[](std::size_t row) const { return values.data() + row * columns; }
};

// All elements of a tensor, whatever its dtype.
Floats floats(const View &value);
Places places(const View &value);
// A square of `size`; throws misfit, with its name, for another shape.
Matrix square(const View &value, std::size_t size, const std::string &name);
// How many lines the first dimension has; throws misfit for a tensor of none.
std::size_t length(const View &value);
bool whole(DType dtype);     // a signed integer, numpy's kind "i"
bool floating(DType dtype);  // numpy's kind "f"
// numpy.array_equal of two tensors: their shapes, and what they hold
bool equal(const View &one, const View &other);
// "[1, 36, 48]"
std::string shown(const std::vector<std::int64_t> &shape);

Floats left_of(const Floats &values, const Mask &free);  // those that are free
// numpy.max and .min: NaN where there is one. Throws misfit of nothing.
double highest(const Floats &values);
double lowest(const Floats &values);
// Of two, numpy.maximum: NaN where one is
double higher(double one, double other);
double lower(double one, double other);
// `decisions.largest`: 0 of none and of what is below
double largest(const Floats &values);
double largest(std::initializer_list<double> values);
// numpy.clip with a lower end alone
inline double clipped(double value, double least) { return value < least ? least : value; }

// numpy.sum along a contiguous line: pairwise, with eight accumulators up to 128
double sum(const double *values, std::size_t count);
// ||values||, as numpy.linalg.norm of a line
double norm(const Floats &values);

// numpy.argsort(kind="stable"): NaN last
Places ranked(const Floats &values);
Places sorted(Places values);
Places up_to(std::size_t end);              // 0, 1, ..., end - 1
Places where(const Mask &mask);             // numpy.flatnonzero
Places without(const Places &all, const Places &gone);  // numpy.setdiff1d: ascending, each once
Places joined(Places one, const Places &other);
// Python's [first:end], whose numbers may lie beyond the end, or count from it
template <class T>
std::vector<T> slice(const std::vector<T> &values, std::int64_t first, std::int64_t end);
// Python's [first::2]
Places every_other(const Places &values, std::size_t first);
// The values at these places; throws misfit beyond the end. From -1 on places count from the end, as in numpy.
template <class T>
std::vector<T> taken(const std::vector<T> &values, const Places &at);
std::size_t place(std::int64_t at, std::size_t size);
std::size_t count(const Mask &mask);

// A parameter of a rule; throw misfit when it is not there, or no number
double number(const Json &rule, const char *name);
std::int64_t whole_number(const Json &rule, const char *name);
Places whole_numbers(const Json &rule, const char *name);
std::string text(const Json &rule, const char *name);
// Whether it is there and says yes, by Python's truth
bool said(const Json &rule, const char *name);

// Python's f"{value:.2g}" and the like, whose format is C's: "%.2g"
std::string formatted(const char *format, double value);

template <class T>
std::vector<T> slice(const std::vector<T> &values, std::int64_t first, std::int64_t end) {
    const auto size = static_cast<std::int64_t>(values.size());
    const auto inside = [&](std::int64_t at) {
        at = at < 0 ? (at < -size ? 0 : at + size) : at;
        return at > size ? size : at;
    };
    first = inside(first), end = inside(end);
    return first < end ? std::vector<T>(values.begin() + first, values.begin() + end) : std::vector<T>();
}

template <class T>
std::vector<T> taken(const std::vector<T> &values, const Places &at) {
    std::vector<T> found;
    found.reserve(at.size());
    for (const auto one : at) found.push_back(values[place(one, values.size())]);
    return found;
}

}  // namespace edgeprune::parity
