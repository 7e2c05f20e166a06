// Which plan of a bundle runs on this machine, and what keeps the others from it: the rules and the words of
// runtime/backends/plan.py. Opens none; needs no GPU to refuse.
//
// tensorrt       only on the GPU, the system and the release that built it
// tensorrt-rtx   on any GPU that the plan names, on Linux and Windows alike, with the release that built it
#pragma once

#include <map>
#include <string>
#include <vector>

#include "backends/gpu.hpp"
#include "bundle/bundle.hpp"

namespace edgeprune {

// What this machine has.
struct Have {
    std::map<std::string, std::string> versions;  // kind of plan -> version of the library that opens it
    std::map<std::string, std::string> missing;   // kind of plan -> which library is wanted, and why it cannot be used
    Gpu gpu;
    std::string system;  // as "Linux x86_64"
};

struct Target {
    const char *name, *kind, *jetpack;  // jetpack: which release brings TensorRT; "" where it is no Jetson
    std::vector<int> sm;
};
// The targets that have plans, sorted (targets/*.toml; a test keeps them the same).
const std::vector<Target> &plan_targets();

// Whether there is a plan, or one that the manifest does not list.
bool has_plan(const Bundle &bundle);

// The plan to open: TensorRT's before TensorRT-RTX's, as it was timed on its GPU; then the bundle's own target's.
// Throws no_device that names each plan with what it does not fit, and the nearest remedy.
const Engine &choose(const Bundle &bundle, const Have &have);

// Whether two versions are one release, as far as both say: "10.3.0" and "10.3.0.30".
bool same_release(const std::string &one, const std::string &other);

}  // namespace edgeprune
