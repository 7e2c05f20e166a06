#include "parity/verify.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

#include "api/finite.hpp"
#include "backends/cut.hpp"
#include "images/preprocessing.hpp"
#include "parity/numbers.hpp"
#include "parity/regret.hpp"
#include "parity/stored.hpp"

namespace edgeprune::parity {

namespace {

constexpr double PROVEN = 0.5;  // share of the decisions
constexpr char PIXELS[] = "pixel_values";

// An input as the graph takes it: a View of memory that the file or `memory` has.
class Feed {
  public:
    Feed(const Bundle &bundle, const Backend &backend)
        : preprocessing_(bundle.manifest.preprocessing), backend_(backend), memory_(backend.inputs().size()) {}

    // Throws bad_image where a probe does not fit.
    std::vector<Bound> operator()(const Probe &probe) {
        std::vector<Bound> inputs;
        batch_ = 0;
        for (std::size_t at = 0; at < backend_.inputs().size(); ++at) {
            const Spec &spec = backend_.inputs()[at];
            View value = probe.inputs.at(spec.name);
            if (spec.name == PIXELS && probe.images) value = prepared(*probe.images, spec, memory_[at]);
            value = fitting(value, spec, memory_[at]);
            const std::size_t nbytes = value.count() * size_of(spec.dtype);
            check_finite(spec, value.data, nbytes);
            if (spec.open() && batch_ != 0 && batch_ != value.shape[0])
                throw bad_image("all inputs must be of as many images, ", spec.name, " is of ", value.shape[0],
                                ", those before it of ", batch_);
            if (spec.open()) batch_ = value.shape[0];
            inputs.push_back({at, const_cast<void *>(value.data), nbytes});
        }
        return inputs;
    }
    std::int64_t batch() const { return batch_ ? batch_ : 1; }

  private:
    static bool fits(const View &value, const Spec &spec) {
        if (value.shape.size() != spec.shape.size()) return false;
        for (std::size_t at = 0; at < value.shape.size(); ++at)
            if (spec.shape[at] == OPEN ? value.shape[at] < 1 : value.shape[at] != spec.shape[at]) return false;
        return true;
    }

    static View fitting(const View &value, const Spec &spec, Memory &memory) {
        if (fits(value, spec) && value.dtype == spec.dtype) return value;
        if (!fits(value, spec) || value.dtype != EDGEPRUNE_FLOAT32 || spec.dtype != EDGEPRUNE_FLOAT16)
            throw bad_image(spec.name, " must be ", spec.shown(), ", got ", name_of(value.dtype), " ",
                            shown(value.shape), "; cast or reshape it");
        Memory halves(value.count() * sizeof(std::uint16_t));
        for (std::size_t at = 0; at < value.count(); ++at) {
            float single;
            std::memcpy(&single, value.as<unsigned char>() + at * sizeof single, sizeof single);
            const std::uint16_t half = half_of(single);
            std::memcpy(halves.data() + at * sizeof half, &half, sizeof half);
        }
        memory = std::move(halves);
        return {EDGEPRUNE_FLOAT16, value.shape, memory.data()};
    }

    // The preprocessing is judged, too.
    View prepared(const View &images, const Spec &spec, Memory &memory) {
        if (images.dtype != EDGEPRUNE_UINT8 || images.shape.size() != 4 || images.shape[3] != 3 || images.count() == 0)
            throw bad_image("an image array must be uint8 [height, width, 3], RGB; got ", name_of(images.dtype), " ",
                            shown(images.shape), "; convert it, or give a file");
        const bool cut = preprocessing_.tiled(), raw = spec.dtype == EDGEPRUNE_UINT8;
        const std::int64_t batch = cut ? 1 : spec.shape.empty() ? OPEN : spec.shape[0];
        if (batch != OPEN && images.shape[0] != batch)
            throw bad_image("this encoder takes ", batch, " images at a time, got ", images.shape[0], "; ",
                            cut ? "give one, which it cuts into tiles" : "give a list of that length");
        const auto size = [&](std::size_t at) { return static_cast<std::size_t>(images.shape[at]); };
        const std::size_t count = size(0), height = size(1), width = size(2);
        const std::int64_t rows = preprocessing_.height(), columns = preprocessing_.width();
        View pixels{spec.dtype, {images.shape[0] * preprocessing_.tiles(), rows, columns, 3}, nullptr};
        if (!raw) pixels.shape = {pixels.shape[0], 3, rows, columns};
        const std::size_t nbytes = pixels.count() * size_of(spec.dtype) / count, given = height * width * 3;
        memory.resize(nbytes * count);
        for (std::size_t at = 0; at < count; ++at) {
            const auto *rgb = images.as<std::uint8_t>() + at * given;
            unsigned char *to = memory.data() + at * nbytes;
            if (raw && !cut && images.shape[1] == rows && images.shape[2] == columns) std::memcpy(to, rgb, nbytes);
            else preprocessing_({rgb, width, height, width * 3}, spec.dtype, to);
        }
        pixels.data = memory.data();
        return pixels;
    }

    Preprocessing preprocessing_;
    const Backend &backend_;
    std::vector<Memory> memory_;
    std::int64_t batch_ = 0;
};

Verdict run(Backend &backend, Feed &feed, const std::string &name, const Probe &probe, const std::string &dtype) {
    std::vector<Bound> inputs, outputs;
    try {
        inputs = feed(probe);
    } catch (const Error &error) {
        if (error.status != EDGEPRUNE_BAD_IMAGE) throw;
        throw bad_bundle("reference.safetensors: probe ", name, " does not fit the graph: ", error.what(),
                         "; export the bundle again");
    }
    Tensors got;
    std::vector<Memory> memory;
    for (std::size_t at = 0; at < backend.outputs().size(); ++at) {
        const Spec &spec = backend.outputs()[at];
        View value{spec.dtype, spec.shape, nullptr};
        if (spec.open()) value.shape[0] = feed.batch();
        const std::size_t nbytes = value.count() * size_of(spec.dtype);
        memory.emplace_back(nbytes + 1);
        value.data = memory.back().data();
        got.set(spec.name, value);
        outputs.push_back({at, memory.back().data(), nbytes});
    }
    backend.run(inputs, outputs, feed.batch());
    return probe.compare(got, dtype);
}

// Every probe by one backend; device: as it is called. `said` is told the name of each.
Report judged(const Bundle &bundle, Backend &backend, const std::string &device, const Reference &reference, int keep,
              const std::function<void(const std::string &)> &said) {
    const auto flags = backend.flags();
    // A weakly typed plan takes and gives the float32 of its graph, and computes in float16.
    const bool halves = std::find(flags.begin(), flags.end(), "FP16") != flags.end();
    const std::string computes = halves ? "float16" : bundle.manifest.computes();
    Report report{device, computes, backend.source(), {}, bounds_of(bundle.manifest.quantised)};
    if (report.bounds) report.dtype = bundle.manifest.precision;
    Feed feed(bundle, backend);
    for (const auto &name : reference.names()) {
        said(name);
        Probe probe = reference.read(name);
        if (keep) probe.cut(keep);
        report.probes.emplace_back(name, run(backend, feed, name, probe, computes));
    }
    return report;
}

}  // namespace

Verdict Report::worst() const {
    std::vector<Verdict> verdicts;
    for (const auto &[name, verdict] : probes) verdicts.push_back(verdict);
    return parity::worst(verdicts);
}

double Report::decided() const {
    std::int64_t decided = 0, decisions = 0;
    for (const auto &[name, verdict] : probes) {
        if (is_flat(name)) continue;
        decided += verdict.decided, decisions += verdict.decisions;
    }
    return decisions ? static_cast<double>(decided) / static_cast<double>(decisions) : 1.0;
}

bool Report::proven() const {
    if (!bounds) return decided() >= PROVEN;
    std::size_t telling = 0, seen = 0, tokens = 0;
    for (const auto &[name, verdict] : probes) {
        if (is_flat(name) || verdict.decisions == 0) continue;
        ++telling, seen += verdict.blind > bounds->regret, tokens += verdict.tokens != 0;
    }
    return telling == 0 || (static_cast<double>(seen) >= PROVEN * static_cast<double>(telling) && tokens != 0);
}

Json Report::to_json() const {
    Json by_name = Json::object();
    for (const auto &[name, verdict] : probes) by_name[name] = verdict.to_json();
    Json allowed;
    if (bounds)
        allowed = {{"regret", bounds->regret}, {"token_median", bounds->token_median}, {"token_each", bounds->token_each}};
    return {{"device", device},
            {"bounds", allowed},
            {"source", source.empty() ? Json(nullptr) : Json(source)},
            {"dtype", dtype},
            {"passed", passed()},
            {"not_run", nullptr},
            {"proven", proven()},
            {"decided", decided()},
            {"worst", worst().to_json()},
            {"probes", by_name}};
}

std::vector<Report> verify(Bundle &bundle, const Choice &choice, int keep, const Progress &progress) {
    const Reference reference(bundle);
    std::unique_ptr<Backend> backend = open_backend(bundle, choice);
    if (keep) backend = cut_to(std::move(backend), bundle.manifest, keep);
    const std::string device = backend->device();
    const bool both = bundle.manifest.halves() && !keep && device != "tensorrt";
    const std::size_t total = reference.names().size() * (both ? 2 : 1);
    std::size_t done = 0;
    const auto said = [&](const std::string &name) {
        if (progress) progress(done, total, name);
        ++done;
    };
    std::vector<Report> reports{judged(bundle, *backend, device, reference, keep, said)};
    if (!both) return reports;
    backend.reset();
    Choice halves = choice;
    halves.split = true;
    halves.log = {};  // what was passed over was said
    backend = open_backend(bundle, halves);
    reports.push_back(judged(bundle, *backend, device + " halves", reference, keep, said));
    return reports;
}

std::vector<std::string> plans_not_run(const std::string &folder, const std::vector<Report> &reports) {
    const std::string begin = "encoder.", end = ".plan";
    std::vector<std::string> plans;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        const bool plan = name.size() >= begin.size() + end.size() && name.compare(0, begin.size(), begin) == 0 &&
                          name.compare(name.size() - end.size(), end.size(), end) == 0;
        const auto ran = [&](const Report &report) { return report.source == name; };
        if (plan && std::none_of(reports.begin(), reports.end(), ran)) plans.push_back(name);
    }
    std::sort(plans.begin(), plans.end());
    return plans;
}

}  // namespace edgeprune::parity
