// Whether what is open has the tensors that the manifest says, as runtime/runner.py and runtime/backends ask it.
#pragma once

#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace edgeprune {

// The names of tensors, or "none".
std::string names_of(const std::vector<Spec> &specs);

// Of what a graph or plan gives, the outputs that the manifest names for it, the ones that every encoder has first; all
// of them where it names none, as of a baseline of schema 1.x. `again`: the remedy.
// Throws bad_bundle when one is not there, or nothing goes in.
std::vector<Spec> wanted_outputs(const std::string &source, const std::vector<Spec> &inputs,
                                 const std::vector<Spec> &have, const Manifest &manifest, const Graph &graph,
                                 const std::string &again);

// Throws bad_bundle when a graph and what the manifest says of the one of this name do not have the same tensors.
void check_tensors(const Bundle &bundle, const std::string &name, const Backend &backend);

}  // namespace edgeprune
