// The handle of the C interface, and the border that nothing is thrown across.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/last_error.hpp"
#include "backends/halves.hpp"
#include "edgeprune.h"
#include "error.hpp"
#include "images/preprocessing.hpp"

namespace edgeprune {

// What a run leaves for the next one, where the caller gives no `state.*`: of the frame before, at first 0.
struct Kept {
    std::size_t input, output;           // places of state.X and next.X
    std::vector<unsigned char> before, after;  // what goes in; where it comes out if the caller does not ask for it
    const void *source = nullptr;        // where it came out in this run; NULL where the caller gave state.X
};

// A port among the inputs: what stands in where the caller leaves it out.
struct Blank {
    std::size_t input;                 // its place
    double value;                      // of each number of it
    std::string refusal;               // where nothing does
    std::string beside, together;      // the port without which this one says nothing, and what is said where that is given
    std::vector<unsigned char> bytes;  // the value, for the most images of any run so far; empty until it is left out
};

// What runs, what stands in for what it is not given, and the memory of its calls.
struct Runs {
    Runs(Backend &backend, const Manifest &manifest);

    Backend *backend;
    std::vector<Bound> inputs, outputs;              // of this call
    std::vector<Bound> known_inputs, known_outputs;  // of the last one whose memory was found to be good,
    bool known_gpu = false;                          // and whose it was
    std::vector<Kept> kept;
    std::vector<Blank> blanks;
};

// The same of both halves, where a bundle was opened as these.
struct RunsHalves {
    RunsHalves(Halves &both, const Manifest &manifest)
        : encode(both.encode(), manifest), select(both.select(), manifest) {}

    Runs encode, select;
    std::vector<edgeprune_buffer> given;  // to the second one in this call
};

}  // namespace edgeprune

struct edgeprune_bundle {
    edgeprune_bundle(std::uint64_t number, edgeprune::Bundle files, std::unique_ptr<edgeprune::Backend> backend,
                     edgeprune::Preprocessing preprocessing, bool look)
        : number(number), files(std::move(files)), backend(std::move(backend)), look(look),
          whole(*this->backend, this->files.manifest), preprocessing(std::move(preprocessing)) {
        if (auto *both = dynamic_cast<edgeprune::Halves *>(this->backend.get()))
            halves.emplace(*both, this->files.manifest);
    }

    std::uint64_t number;  // no other handle of this process has it, had it, or will have it
    edgeprune::Bundle files;
    std::unique_ptr<edgeprune::Backend> backend;
    bool look;  // for NaN and infinities among inputs

    std::mutex running;  // runs take turns, on what follows
    edgeprune::Runs whole;
    std::optional<edgeprune::RunsHalves> halves;

    std::mutex preparing;  // images take turns
    edgeprune::Preprocessing preprocessing;
};

namespace edgeprune {

// Runs what a function of the interface is made of; what it throws becomes a status, and the thread's last error.
template <class Call>
edgeprune_status guarded(std::uint64_t number, Call call) noexcept {
    try {
        call();
        return EDGEPRUNE_OK;
    } catch (const Error &error) {
        keep_error(number, error.what());
        return error.status;
    } catch (const std::bad_alloc &) {
        keep_error(number, "memory ran out");
    } catch (const std::exception &error) {
        keep_error(number, error.what());
    } catch (...) {
        keep_error(number, "an error that does not say what it is");
    }
    return EDGEPRUNE_FAILED;
}

// The same for a function of a handle, which must be one.
template <class Handle, class Call>
edgeprune_status with(Handle *bundle, Call call) noexcept {
    return guarded(bundle ? bundle->number : 0, [&] {
        if (!bundle) throw wrong_request("bundle must be a handle of edgeprune_open, got NULL");
        call(*bundle);
    });
}

// Of one image in pixel_values; of all tiles of it where it is cut up.
std::size_t image_nbytes(const edgeprune_bundle &bundle);

inline void need(const void *pointer, const char *name) {
    if (!pointer) throw wrong_request(name, " must not be NULL");
}

}  // namespace edgeprune
