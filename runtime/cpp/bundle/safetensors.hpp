// The file format of Hugging Face: a header of JSON, then the tensors. Views point into the file's bytes.
#pragma once

#include <map>
#include <string>

#include "bundle/mapped.hpp"
#include "tensor.hpp"

namespace edgeprune {

// Throws bad_bundle, naming `name`, for a header that is no JSON object, overlaps, gaps, sizes that do not fit, ...
std::map<std::string, View> read_safetensors(Bytes file, const std::string &name);

// A file of tensors that are named. Throws failed when it cannot be written; nothing half-written is left.
void write_safetensors(const std::string &path, const std::map<std::string, View> &tensors);

}  // namespace edgeprune
