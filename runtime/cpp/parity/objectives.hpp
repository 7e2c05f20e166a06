// What the picks of a greedy method gain; `OBJECTIVES` of runtime/parity/greedy.py.
//
//   C: `similarity`, cosines [N, N], S: the picks so far
//
//   max-min     1 - C           first min over i != j of D[i, j], then min over S                      divprune
//   world       attention, xyz  first `attention`, then min over S of balance |xyz - xyz_s| / the largest such distance
//                               from the first pick + (1 - balance) (1 - C)                            segpruner
//   max-sum     first `first`   then - sum over S of C                                                 todre
//   determinant 1               what is left of the diagonal of C outside the span of S                dpp
//   relevant    relevance       the same of (1 - weight) C + weight r C r, r: relevance in ..1         cdpruner
//   volume      products        the same of I + `products`, less 1                                     otprune
//   coverage    saliency        saliency_i * sum over j of max(0, C_ij - max(0, max over S of C_sj))   scope
//   relevance   attention       balance * r_j - (1 - balance) * max over S of C, r: attention in 0..1  idpruner
//   distance    sensitivity     r_j, then r_j * (1 - max over S of C), r: sensitivity in 0..1          zoo
//   apart       saliency        saliency_j, then saliency_j * (1 - max over S of C)                    score
//   suppression attention       r_j, less exp(-width (1 - C_sj)^2) * what s had left, for every s      idselection
//   leading     first           the `leading` highest of `first`, then min over S of 1 - C             learnpruner
//   pivots      length          the P longest, then for each in turn the least 1 - C with it           dart
#pragma once

#include <memory>

#include "parity/decisions.hpp"

namespace edgeprune::parity {

class Objective {
  public:
    virtual ~Objective() = default;

    // Of every patch, given the picks so far.
    virtual Floats gains() = 0;
    // What errors of rows, of a cosine for instance, become in the gain of a patch.
    virtual double noise(std::size_t) { return 1; }
    // What relative errors of attention, which are larger, become in it.
    virtual double measured(std::size_t) { return 0; }
    // Whether gains fall without end, so that those far below the best say nothing of how exact it is.
    virtual bool falls() const { return false; }
    // This patch is picked.
    virtual void take(std::size_t pick) = 0;
};

// covers.cpp, leading.cpp
std::unique_ptr<Objective> covers(const Case &one, std::size_t patches);
std::unique_ptr<Objective> leading(const Case &one, std::size_t patches);

// Throws misfit for an objective or quantities that are none.
std::unique_ptr<Objective> objective_of(const Case &one, std::size_t patches);

}  // namespace edgeprune::parity
