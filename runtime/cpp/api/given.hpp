// What a call is given: names become places, and memory that was not there in the call before is looked at.
#pragma once

#include "api/handle.hpp"

namespace edgeprune {

// Of this call, with everything about it found to be good, into `inputs` and `outputs` of the runs; the number of
// images. gpu: whose memory it must be.
std::int64_t take(Runs &runs, const edgeprune_buffer *inputs, std::size_t inputs_count,
                  const edgeprune_buffer *outputs, std::size_t outputs_count, bool gpu);

// What was kept of the frame before goes on: what the run just left.
void next_frame(Runs &runs);

// What was kept of the frame before is forgotten.
void first_frame(Runs &runs);

}  // namespace edgeprune
