// edgeprune_run and edgeprune_run_cuda, and the two halves of it, edgeprune_encode and edgeprune_select.

#include <algorithm>
#include <cstring>
#include <iterator>

#include "api/finite.hpp"
#include "api/given.hpp"

using namespace edgeprune;

namespace {

// On the host, blocking.
void run(const edgeprune_bundle &bundle, Runs &runs, const edgeprune_buffer *inputs, std::size_t inputs_count,
         const edgeprune_buffer *outputs, std::size_t outputs_count) {
    const std::int64_t batch = take(runs, inputs, inputs_count, outputs, outputs_count, false);
    if (bundle.look)
        for (const Bound &bound : runs.inputs)
            check_finite(runs.backend->inputs()[bound.at], bound.data, bound.nbytes);
    runs.backend->run(runs.inputs, runs.outputs, batch);
    next_frame(runs);
}

RunsHalves &halves_of(edgeprune_bundle &bundle, const char *function) {
    if (!bundle.halves)
        throw wrong_request(function + std::string(" needs a handle that was opened with `split`, of a bundle that was "
                                                   "exported with --split; open it so, or call edgeprune_run"));
    return *bundle.halves;
}

}  // namespace

edgeprune_status edgeprune_run(edgeprune_bundle *bundle, const edgeprune_buffer *inputs, size_t inputs_count,
                               const edgeprune_buffer *outputs, size_t outputs_count) {
    return with(bundle, [&](edgeprune_bundle &open) {
        const std::lock_guard<std::mutex> turn(open.running);
        need(inputs, "inputs");
        run(open, open.whole, inputs, inputs_count, outputs, outputs_count);
    });
}

edgeprune_status edgeprune_encode(edgeprune_bundle *bundle, const void *pixels, size_t pixels_nbytes, void *seen,
                                  size_t seen_nbytes) {
    return with(bundle, [&](edgeprune_bundle &open) {
        RunsHalves &halves = halves_of(open, "edgeprune_encode");
        const std::lock_guard<std::mutex> turn(open.running);
        const edgeprune_buffer given{"pixel_values", const_cast<void *>(pixels), pixels_nbytes};  // read only
        const edgeprune_buffer wanted{SEEN, seen, seen_nbytes};
        run(open, halves.encode, &given, 1, &wanted, 1);
    });
}

edgeprune_status edgeprune_select(edgeprune_bundle *bundle, const void *seen, size_t seen_nbytes,
                                  const edgeprune_buffer *inputs, size_t inputs_count,
                                  const edgeprune_buffer *outputs, size_t outputs_count) {
    return with(bundle, [&](edgeprune_bundle &open) {
        RunsHalves &halves = halves_of(open, "edgeprune_select");
        const std::lock_guard<std::mutex> turn(open.running);
        if (inputs_count) need(inputs, "inputs");
        halves.given.clear();
        std::copy_n(inputs, inputs_count, std::back_inserter(halves.given));
        halves.given.push_back({SEEN, const_cast<void *>(seen), seen_nbytes});  // read only
        run(open, halves.select, halves.given.data(), halves.given.size(), outputs, outputs_count);
    });
}

edgeprune_status edgeprune_first_frame(edgeprune_bundle *bundle) {
    return with(bundle, [](edgeprune_bundle &open) {
        const std::lock_guard<std::mutex> turn(open.running);
        first_frame(open.whole);
        if (open.halves) first_frame(open.halves->select);
    });
}

// Not run here: needs a GPU.
edgeprune_status edgeprune_run_cuda(edgeprune_bundle *bundle, const edgeprune_buffer *inputs, size_t inputs_count,
                                    const edgeprune_buffer *outputs, size_t outputs_count, void *stream) {
    return with(bundle, [&](edgeprune_bundle &open) {
        if (std::strcmp(open.backend->device(), "cpu") == 0)
            throw wrong_request("memory of a GPU needs a bundle that is open on one, this one is open on ",
                                open.backend->device(), "; open it with another device, or call edgeprune_run");
        const std::lock_guard<std::mutex> turn(open.running);
        need(inputs, "inputs");
        const std::int64_t batch = take(open.whole, inputs, inputs_count, outputs, outputs_count, true);
        open.backend->run_cuda(open.whole.inputs, open.whole.outputs, batch, stream);
    });
}
