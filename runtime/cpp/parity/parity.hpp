// Is it the same output? The rules of runtime/parity/, one file each, with the same verdicts and numbers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bundle/bundle.hpp"
#include "error.hpp"
#include "tensor.hpp"

namespace edgeprune::parity {

// Tensors by name, in the order in which the manifest names them: reasons come in it.
class Tensors {
  public:
    void set(const std::string &name, const View &value);      // in the place of one of that name, else at the end
    const View *find(const std::string &name) const;           // nullptr where there is none
    const View &at(const std::string &name) const;             // throws misfit
    auto begin() const { return named_.begin(); }
    auto end() const { return named_.end(); }

  private:
    std::vector<std::pair<std::string, View>> named_;
};

struct Verdict {
    int images = 0, equal_sets = 0, decisions = 0, decided = 0, within = 0, wrong = 0;
    double regret = 0, lost = 0, blind = 0, error = 0, error_relative = 0, token_error = 0, token_median = 0;
    int tokens = 0;
    std::vector<std::string> reasons;

    bool passed() const { return reasons.empty(); }
    Json to_json() const;  // as Verdict.to_json of Python, field by field
};

// One run against the reference, image by image (runtime/parity/verdict.py, compare). `dtype`: "float32" or "float16".
// quantised: that of the manifest, by whose bounds it is judged then; null of a float graph.
// Malformed outputs are a failed verdict. A reference or rule that cannot be that of the graph: throws misfit.
Verdict compare(const Tensors &reference, const Tensors &got, const std::string &dtype, const Json &rule,
                const Tensors &quantities, bool whole, const Json &quantised = nullptr);
Verdict worst(const std::vector<Verdict> &verdicts);

// What a hand put into the reference may be of any shape: "reference.safetensors is not that of the graph (...)"
template <class... Parts>
Error misfit(const Parts &...parts) {
    return bad_bundle("reference.safetensors is not that of the graph (", parts..., "); export the bundle again");
}

}  // namespace edgeprune::parity
