// Which files a graph reads its weights from: a walk through the protobuf of the .onnx alone, as
// edgeprune/bundle/onnx_data.py walks.
#pragma once

#include <set>
#include <string>

#include "bundle/mapped.hpp"

namespace edgeprune {

// The locations that the tensors of a graph name, as they are written; bytes that are not UTF-8 as "\xff". Throws Wrong
// (typed.hpp) when it is no graph.
std::set<std::string> external_files(Bytes graph);

}  // namespace edgeprune
