// What is wrong with outputs themselves, whatever they are compared with; the second half of runtime/parity/verdict.py.
#pragma once

#include "parity/decisions.hpp"

namespace edgeprune::parity {

// What nothing can be compared with. Of a greedy method, -inf is the score of what it did not pick.
std::vector<std::string> not_finite(const Tensors &reference, const Tensors &quantities, bool greedy);
// What is wrong with the outputs of a device.
std::vector<std::string> defects_of(const Tensors &reference, const Tensors &got, const std::string &dtype,
                                    const std::string &rule);
// Scores are float32 in every precision. What stands in a tier lost bits to it. "" where they were not rounded
// greedy: whether they are gains; 1 - cosine of a small one has few bits by itself
std::string rounded(const Tensors &reference, const Tensors &got, bool greedy);

// [F, D], [F, D] -> [F], ||got - reference|| / ||reference||; for a reference of zeros, 0 or inf.
Floats relative(const View &reference, const View &got);
// The rows of [F, ...] with these numbers, whose memory is `memory`.
View rows_of(const View &value, const Places &at, std::vector<unsigned char> &memory);

// Errors of the tokens that are of the same patches; and the largest of each extra, by name.
struct Rows {
    std::size_t count = 0;
    Floats errors;  // of each; more than one of each where a row has further dimensions
    std::vector<std::pair<std::string, double>> extras;
};
// undecided: whether nothing can be said of them, because everything hangs on a set that differs
Rows rows(const Tensors &reference, const Tensors &got, bool undecided);

}  // namespace edgeprune::parity
