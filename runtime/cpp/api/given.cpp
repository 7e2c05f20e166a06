#include "api/given.hpp"

#include <algorithm>
#include <cstring>

#include "backends/gpu.hpp"
#include "backends/tensors.hpp"

using namespace edgeprune;

namespace {

constexpr std::int64_t UNKNOWN = -1;  // how many images, of a batch that is open

std::string given(const edgeprune_buffer *buffers, std::size_t count) {
    std::string text;
    for (std::size_t at = 0; at < count; ++at) text += (text.empty() ? "" : ", ") + std::string(buffers[at].name);
    return text.empty() ? "none" : text;
}

// The place of a buffer's tensor, once its name and size are found to be good; the batch that its size says.
std::size_t place(const edgeprune_buffer &buffer, const std::vector<Spec> &specs, const char *kind,
                  std::int64_t &batch) {
    std::size_t at = 0;
    while (at < specs.size() && specs[at].name != buffer.name) ++at;
    if (at == specs.size())
        throw wrong_request("the bundle has no ", kind, " ", buffer.name, "; it has ", names_of(specs));
    const Spec &spec = specs[at];
    const std::size_t nbytes = spec.nbytes();
    if (!buffer.data) throw wrong_request("data of ", spec.name, " must not be NULL");
    if (reinterpret_cast<std::uintptr_t>(buffer.data) % size_of(spec.dtype))
        throw wrong_request("data of ", spec.name, " must be aligned to the ", size_of(spec.dtype), " bytes of a ",
                            name_of(spec.dtype), ", it is at ", buffer.data);
    if (spec.open()) {
        const auto images = static_cast<std::int64_t>(buffer.nbytes / nbytes);
        if (!images || buffer.nbytes % nbytes)
            throw wrong_request(spec.name, " must have ", nbytes, " bytes for each image, for it is ", spec.shown(),
                                ", got ", buffer.nbytes);
        if (batch != UNKNOWN && images != batch)
            throw wrong_request("all tensors must be of as many images, ", spec.name, " is of ", images,
                                ", those before it of ", batch);
        batch = images;
    } else if (buffer.nbytes != nbytes) {
        throw wrong_request(spec.name, " must have ", nbytes, " bytes, for it is ", spec.shown(), ", got ",
                            buffer.nbytes);
    }
    return at;
}

void read(const edgeprune_buffer *buffers, std::size_t count, const std::vector<Spec> &specs, const char *kind,
          std::vector<Bound> &bound, std::int64_t &batch) {
    bound.clear();
    for (std::size_t number = 0; number < count; ++number) {
        const edgeprune_buffer &buffer = buffers[number];
        if (!buffer.name) throw wrong_request(kind, " number ", number, " must have a name, got NULL");
        const std::size_t at = place(buffer, specs, kind, batch);
        for (const Bound &other : bound)
            if (other.at == at) throw wrong_request("the ", kind, " ", buffer.name, " must be given once");
        bound.push_back({at, buffer.data, buffer.nbytes});
    }
}

bool overlap(const Bound &one, const Bound &other) {
    const auto a = reinterpret_cast<std::uintptr_t>(one.data), b = reinterpret_cast<std::uintptr_t>(other.data);
    return a < b + other.nbytes && b < a + one.nbytes;
}

// Memory that the library has not seen in the call before.
void look_at(const Runs &runs, bool gpu) {
    const auto check = [&](const Bound &bound, const Spec &spec) {
        if (!gpu && on_gpu_alone(bound.data))
            throw wrong_request("data of ", spec.name, " must be in host memory, it is in a GPU's; call ",
                                "edgeprune_run_cuda on a bundle that is open on that GPU, or copy it");
        if (gpu && !on_gpu(bound.data))
            throw wrong_request("data of ", spec.name, " must be in the GPU's memory, it is in the host's; call ",
                                "edgeprune_run");
    };
    for (const Bound &bound : runs.inputs) check(bound, runs.backend->inputs()[bound.at]);
    for (const Bound &bound : runs.outputs) check(bound, runs.backend->outputs()[bound.at]);
    for (const Bound &output : runs.outputs) {
        const auto refuse = [&](const Bound &other, const std::vector<Spec> &specs) {
            if (&other != &output && overlap(output, other))
                throw wrong_request("every tensor must have memory of its own, ",
                                    runs.backend->outputs()[output.at].name, " and ", specs[other.at].name,
                                    " overlap");
        };
        for (const Bound &other : runs.inputs) refuse(other, runs.backend->inputs());
        for (const Bound &other : runs.outputs) refuse(other, runs.backend->outputs());
    }
}

// What the caller leaves out of what goes from frame to frame, in the handle's own memory.
void keep(Runs &runs) {
    for (Kept &one : runs.kept) {
        const auto bound = [](const std::vector<Bound> &given, std::size_t at) -> const Bound * {
            const auto found = std::find_if(given.begin(), given.end(), [at](const Bound &own) { return own.at == at; });
            return found == given.end() ? nullptr : &*found;
        };
        one.source = nullptr;
        if (bound(runs.inputs, one.input)) continue;
        runs.inputs.push_back({one.input, one.before.data(), one.before.size()});
        if (const Bound *asked = bound(runs.outputs, one.output)) {
            one.source = asked->data;
        } else {
            runs.outputs.push_back({one.output, one.after.data(), one.after.size()});
            one.source = one.after.data();
        }
    }
}

// So many numbers of one value, as the graph takes them.
void fill(std::vector<unsigned char> &bytes, std::size_t nbytes, DType dtype, double value) {
    const auto single = static_cast<float>(value);
    const std::uint16_t half = half_of(single);
    const void *one = dtype == EDGEPRUNE_FLOAT16 ? static_cast<const void *>(&half) : &single;
    bytes.resize(nbytes);
    for (std::size_t at = 0; at < nbytes; at += size_of(dtype)) std::memcpy(bytes.data() + at, one, size_of(dtype));
}

// What stands in for ports that the caller leaves out, in the handle's own memory, which no GPU sees.
void stand_in(Runs &runs, std::int64_t batch, bool gpu) {
    const std::vector<Spec> &specs = runs.backend->inputs();
    const auto is_given = [&](std::size_t at) {
        return std::any_of(runs.inputs.begin(), runs.inputs.end(), [at](const Bound &one) { return one.at == at; });
    };
    const auto stands_in = [&](const Bound &given) {
        return std::any_of(runs.blanks.begin(), runs.blanks.end(), [&](const Blank &one) {
            return one.input == given.at && given.data == one.bytes.data();
        });
    };
    for (Blank &blank : runs.blanks) {
        if (is_given(blank.input)) continue;
        if (!blank.refusal.empty()) throw wrong_request(blank.refusal);
        for (const Bound &one : runs.inputs)
            if (!blank.beside.empty() && specs[one.at].name == blank.beside && !stands_in(one))
                throw wrong_request(blank.together);
        if (gpu) continue;
        const Spec &spec = specs[blank.input];
        const auto images = static_cast<std::size_t>(spec.open() && batch != UNKNOWN ? batch : 1);
        const std::size_t nbytes = images * spec.nbytes();
        if (blank.bytes.size() < nbytes) fill(blank.bytes, nbytes, spec.dtype, blank.value);
        runs.inputs.push_back({blank.input, blank.bytes.data(), nbytes});
    }
}

// Of the ports of the manifest those of floats, and those without a blank.
std::vector<Blank> blanks_of(const Backend &backend, const Manifest &manifest) {
    std::vector<Blank> blanks;
    for (std::size_t at = 0; at < backend.inputs().size(); ++at) {
        const Spec &spec = backend.inputs()[at];
        const auto port = manifest.ports.find(spec.name);
        if (spec.name == "pixel_values" || port == manifest.ports.end()) continue;
        const Json &blank = port->at("blank");
        const auto text_of = [&](const char *name) {
            return port->contains(name) && port->at(name).is_string() ? port->at(name).get<std::string>() : "";
        };
        const std::string what = text_of("what"), beside = text_of("beside");
        if (blank.is_null()) {
            const std::string refusal = line(spec.name, " must be given: ", what, "; ", manifest.method,
                                             " chooses by it");
            blanks.push_back({at, 0, refusal, "", "", {}});
        } else if (spec.dtype == EDGEPRUNE_FLOAT32 || spec.dtype == EDGEPRUNE_FLOAT16) {
            const std::string together = line(spec.name, " must be given with ", beside, ": ", what);
            blanks.push_back({at, blank.get<double>(), "", beside, together, {}});
        }
    }
    return blanks;
}

// What the bundle keeps from frame to frame, all of it 0.
std::vector<Kept> kept_of(const Backend &backend) {
    const std::string state = "state.", next = "next.";
    std::vector<Kept> kept;
    for (std::size_t at = 0; at < backend.inputs().size(); ++at) {
        const Spec &spec = backend.inputs()[at];
        if (spec.name.compare(0, state.size(), state) != 0 || spec.open()) continue;
        const Spec *from = find(backend.outputs(), next + spec.name.substr(state.size()));
        if (!from || from->nbytes() != spec.nbytes() || from->dtype != spec.dtype) continue;
        kept.push_back({at, static_cast<std::size_t>(from - backend.outputs().data()),
                        std::vector<unsigned char>(spec.nbytes()), std::vector<unsigned char>(spec.nbytes())});
    }
    return kept;
}

}  // namespace

std::int64_t edgeprune::take(Runs &runs, const edgeprune_buffer *inputs, std::size_t inputs_count,
                  const edgeprune_buffer *outputs, std::size_t outputs_count, bool gpu) {
    const std::vector<Spec> &specs = runs.backend->inputs();
    need(outputs, "outputs");
    if (!outputs_count) throw wrong_request("at least one output must be asked for, got none");
    std::int64_t batch = UNKNOWN;
    read(inputs, inputs_count, specs, "input", runs.inputs, batch);
    read(outputs, outputs_count, runs.backend->outputs(), "output", runs.outputs, batch);
    stand_in(runs, batch, gpu);
    if (!gpu) keep(runs);
    if (runs.inputs.size() != specs.size())
        throw wrong_request("the graph must be given ", names_of(specs), "; it was given ",
                            given(inputs, inputs_count));
    const bool known = gpu == runs.known_gpu && runs.inputs == runs.known_inputs &&
                       runs.outputs == runs.known_outputs;
    if (!known) {
        runs.known_inputs.clear();
        look_at(runs, gpu);
        runs.known_inputs = runs.inputs;
        runs.known_outputs = runs.outputs;
        runs.known_gpu = gpu;
    }
    return batch;
}

edgeprune::Runs::Runs(Backend &backend, const Manifest &manifest)
    : backend(&backend), kept(kept_of(backend)), blanks(blanks_of(backend, manifest)) {}

void edgeprune::next_frame(Runs &runs) {
    for (Kept &one : runs.kept)
        if (one.source) std::memcpy(one.before.data(), one.source, one.before.size());
}

void edgeprune::first_frame(Runs &runs) {
    for (Kept &one : runs.kept) std::fill(one.before.begin(), one.before.end(), static_cast<unsigned char>(0));
}
