// The probes of a bundle through one backend, compared with the reference that travels with it; mirrors
// runtime/parity/verify.py, whose list of backends is one here: the device that is asked for.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/backend.hpp"
#include "parity/parity.hpp"
#include "parity/regret.hpp"

namespace edgeprune::parity {

struct Report {
    std::string device, dtype, source;  // source: name of the file that was run
    std::vector<std::pair<std::string, Verdict>> probes;
    std::optional<Bounds> bounds = {};  // by which a quantised graph was judged

    Verdict worst() const;
    bool passed() const { return worst().passed(); }
    // Share of the decisions that a mistake would be seen in, on all probes but the flat ones; 1 of none.
    double decided() const;
    // Whether at least half of the decisions are decided: below, parity says little about what is kept. Of a quantised
    // graph, whether on half of the probes a choice by chance would have failed, and tokens were compared.
    bool proven() const;
    Json to_json() const;  // as BackendReport.to_json of Python, field by field
};

// Called with probes done, probes in all, and the name of the next.
using Progress = std::function<void(std::size_t, std::size_t, const std::string &)>;

// Of the encoder, and of its halves where there are such and they run there: in ONNX Runtime, with all that is kept.
// keep: of the first so many picks alone, where kept sets nest; 0 for all. Throws no_device, wrong_request for a budget
// that is not there, bad_bundle where the bundle brings no usable reference.
std::vector<Report> verify(Bundle &bundle, const Choice &choice, int keep = 0, const Progress &progress = {});

// The plans that lie in a bundle, listed or not, of which none of these reports shows anything.
std::vector<std::string> plans_not_run(const std::string &folder, const std::vector<Report> &reports);

}  // namespace edgeprune::parity
