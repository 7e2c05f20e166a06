// What is wrong with outputs themselves, whatever they are compared with; the second half of runtime/parity/verdict.py.
#pragma once

#include "parity/decisions.hpp"

namespace edgeprune::parity {

// The tensors of one image; positions are the same of all, and have their patches last.
struct Image {
    Tensors tensors;
    std::vector<std::vector<unsigned char>> turned;
};
Image image_of(const Tensors &tensors, std::size_t at, std::size_t images);

// What nothing can be compared with.
// some: whether -inf is the score of patches that are not kept: of gains, and of what steps inside the encoder left out
std::vector<std::string> not_finite(const Tensors &reference, const Tensors &quantities, bool some);
// What is wrong with the outputs of a device.
std::vector<std::string> defects_of(const Tensors &reference, const Tensors &got, const std::string &dtype,
                                    const Json &rule);
// Whether scores went through float16: they are float32 in every precision. What stands in a tier lost bits to it.
// small: whether they may be differences of larger numbers; 1 - cosine of a small one has few bits by itself
bool rounded(const View &reference, const View &got, bool small);

// [F, D], [F, D] -> [F], ||got - reference|| / ||reference||; for a reference of zeros, 0 or inf.
Floats relative(const View &reference, const View &got);
// The rows of [F, ...] with these numbers, whose memory is `memory`.
View rows_of(const View &value, const Places &at, std::vector<unsigned char> &memory);

// Errors of the tokens that are of the same patches, or of the same rows behind the steps; and the largest of each extra, by name.
struct Rows {
    std::size_t count = 0;
    Floats errors;  // of each; more than one of each where a row has further dimensions
    std::vector<std::pair<std::string, double>> extras;
};
// undecided: whether nothing can be said of them, because everything hangs on a set that differs
Rows rows(const Tensors &reference, const Tensors &got, const Json &steps, bool undecided);

}  // namespace edgeprune::parity
