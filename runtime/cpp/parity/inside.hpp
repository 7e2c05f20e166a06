// Steps inside the encoder, and the method's own decisions behind them, in rows in place of patches; mirrors
// runtime/parity/inside.py, which says what they hand out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parity/rules.hpp"

namespace edgeprune::parity {

// The steps of a rule, a list of objects; empty where it has none. Throws misfit for what is no such list.
const Json &steps_of(const Json &rule);
// "scores.<layer>" and the like
std::string name_of_step(const char *what, const Json &step);
bool is_of_step(const std::string &name);  // whether an output says what a step did

// Names of the rules of steps, and whether it is one
std::string step_rule_names();
bool is_step_rule(const Json &name);

// Whether every step of a device did what the reference's did, so that all of them can be judged.
bool followed(const Tensors &reference, const Tensors &got);
// [N] the row behind the last step that each patch is part of, -1 for none, K and above for hidden ones
Places places_behind(const Tensors &outputs, const Json &steps);
// What cannot be steps at all, nor a choice of the rows that they left. gains: whether only what was picked has a score
Defects astray(const Tensors &outputs, const Json &steps, bool gains);

// indices, picks and scores of rows in place of patches; what no row was ranked by is -inf.
struct InRows {
    InRows(const Tensors &outputs, const Json &steps);

    Tensors outputs;
    std::vector<float> scores;
    Places indices, picks;
};

// What the steps of one image come to, and, with it, what `method` makes of its own decisions: as many that nothing can
// be said of, where the steps are not the reference's.
Chain with_steps(const Case &one, const Json &steps, Chain (*method)(const Case &));

}  // namespace edgeprune::parity
