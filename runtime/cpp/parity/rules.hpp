// The rules by name, each in a file of its own, as in runtime/parity/; and what they share.
#pragma once

#include <string>
#include <vector>

#include "parity/decisions.hpp"

namespace edgeprune::parity {

Chain topk(const Case &one);
Chain fixed(const Case &one);
Chain stages(const Case &one);
Chain greedy(const Case &one);
Chain thin(const Case &one);
Chain chunks(const Case &one);
Chain match(const Case &one);
Chain spaced(const Case &one);
Chain groups(const Case &one);
Chain forest(const Case &one);

// Rules of a step inside the encoder: `indices` of its case are the rows that go on, `trail` where each row went. Each
// comes with what no step of it does, by the device's own numbers (inside.cpp).
Chain pairs(const Case &one);
Chain joins(const Case &one);
Chain quadrants(const Case &one);
Chain energy(const Case &one);
Chain halves(const Case &one);
using Defects = std::vector<std::string>;
Defects undropped(const Case &one);  // of topk
Defects unpaired(const Case &one);
Defects unjoined(const Case &one);
Defects unquartered(const Case &one);
Defects unspent(const Case &one);
Defects unhalved(const Case &one);

// joins.cpp: did each row join the most similar? alike: cosines [A, B]; target: which of the B each one joined
Chain nearest(const Matrix &alike, const Places &target, double tolerance);
// topk.cpp: the defect of a step whose rows that go on are not those of the highest of its own scores
Defects lower_went_on(const Case &one);

// What the device ranked by, against the reference: the largest difference, the same over the largest reference, all.
struct Measured {
    double error, relative;
    Floats errors;
};

// topk.cpp
Measured measured(const Floats &got, const Floats &reference);
// The largest error of shares of attention over what each of them allows: four times itself, as errors of its logits
// are relative ones of it, and 1 % of the largest. Measured in float16: up to .2 % of a share.
double of_shares(const Floats &errors, const Floats &reference);

// tiers.cpp: score = 2 t + s. What a method chose in stages stands in t, what it ranked by inside, 0..1, in s.
inline constexpr double TIER_ROUNDING = 1.0 / (1 << 20);  // what s may lose to the 2 t in front of it, on both sides
Floats tiers_of(const Floats &scores);  // -> t
Floats parted(const Floats &scores);    // -> s
// The reference's s, and what the device's s measures against it.
struct Compared {
    Floats reference;
    double error, relative;
    Floats errors;
};
Compared compared(const Case &one);

}  // namespace edgeprune::parity
