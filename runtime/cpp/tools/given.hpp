// What a graph is given beside an image: files of numbers, by the names of its inputs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace edgeprune::tools {

// All bytes of a file, or of standard input for "-". Throws bad_image, with `remedy`, when it cannot be read.
std::string read_file(const std::string &name, const std::string &remedy);

// input -> file, of words such as "text=question.npy". Throws wrong_request for another form, and a name given twice.
std::map<std::string, std::string> files_of(const std::vector<std::string> &words);

// The memory of an input for every image of a run. In the file: a .npy of the input's shape, or of one image's, with or
// without its leading dimension, which all of them are given; or the bytes alone, in the graph's dtype. float32 of a
// .npy is rounded where the graph takes float16. Throws bad_image when it does not fit.
std::vector<unsigned char> read_input(const std::string &file, const Spec &spec);

}  // namespace edgeprune::tools
