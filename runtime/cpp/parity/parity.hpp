// Is it the same output? The rules of runtime/parity/, one file each, with the same verdicts and numbers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "tensor.hpp"

namespace edgeprune::parity {

using Tensors = std::map<std::string, View>;

struct Verdict {
    int images = 0, equal_sets = 0, decisions = 0, decided = 0, within = 0, wrong = 0;
    double regret = 0, error = 0, error_relative = 0, token_error = 0;
    int tokens = 0;
    std::vector<std::string> reasons;

    bool passed() const { return reasons.empty(); }
    Json to_json() const;  // as Verdict.to_json of Python, field by field
};

// One run against the reference, image by image (runtime/parity/verdict.py, compare). `dtype`: "float32" or "float16".
Verdict compare(const Tensors &reference, const Tensors &got, const std::string &dtype, const Json &rule,
                const Tensors &quantities, bool whole);
Verdict worst(const std::vector<Verdict> &verdicts);

}  // namespace edgeprune::parity
