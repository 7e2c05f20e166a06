#include "backends/cut.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "backends/halves.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

constexpr std::size_t NONE = static_cast<std::size_t>(-1);

// How an output belongs to the K tokens of each of B images: [B, K, ...], or of one image [..., K].
enum class Along { nothing, images, last };

// Why the kept sets of a bundle cannot be cut; "" where they can.
std::string refused(const Manifest &manifest) {
    const std::string again = "export again with the --keep that is wanted";
    if (!manifest.nested)
        return line("the kept sets of ", manifest.method, " do not nest, or this bundle does not say so; ", again);
    if (!find(manifest.encoder().outputs, "picks"))
        return line("this bundle of ", manifest.method, " has no picks, the order in which it chose; ", again);
    if (manifest.pooled())
        return line("the ", manifest.tiles, " tiles of this bundle share one budget; ", again);
    return "";
}

Along along(const std::vector<std::int64_t> &shape, std::int64_t batch, std::int64_t every) {
    if (shape.size() >= 2 && shape[0] == batch && shape[1] == every) return Along::images;
    return batch == 1 && !shape.empty() && shape.back() == every ? Along::last : Along::nothing;
}

// Outputs of all patches, or of steps inside the encoder: of the rows there, however many tokens are kept.
bool uncut(const std::string &name) {
    for (const char *begin : {"order", "worth", "trail.", "scores.", "next."})
        if (name.compare(0, std::strlen(begin), begin) == 0) return true;
    return false;
}

// Whether the scores are gains of picks, and -inf elsewhere.
bool gains(const Json &rule) {
    const auto name = rule.find("name");
    return name != rule.end() && name->is_string() && name->get_ref<const std::string &>() == "greedy";
}

class Cut final : public Backend {
  public:
    Cut(std::unique_ptr<Backend> whole, const Manifest &manifest, int keep)
        : whole_(std::move(whole)), greedy_(gains(manifest.rule)), keep_(static_cast<std::size_t>(keep)) {
        if (const std::string why = refused(manifest); !why.empty())
            throw wrong_request("a budget of ", keep, " needs kept sets that nest: ", why);
        const std::vector<Spec> &have = whole_->outputs();
        picks_ = place(have, "picks");
        scores_ = place(have, "scores");
        origin_ = place(have, "origin");
        const std::int64_t batch = have[picks_].shape[0], every = have[picks_].shape[1];
        if (keep < 1 || keep > every)
            throw wrong_request("the number of tokens must be a whole one in 1..", every, ", got ", keep,
                                "; export with more --keep");
        every_ = static_cast<std::size_t>(every);
        outputs_ = have;
        for (std::size_t at = 0; at < have.size(); ++at) {
            const bool whole = at == scores_ || at == origin_ || uncut(have[at].name);
            along_.push_back(whole ? Along::nothing : along(have[at].shape, batch, every));
            if (along_[at] == Along::images) outputs_[at].shape[1] = keep;
            if (along_[at] == Along::last) outputs_[at].shape.back() = keep;
        }
        memory_.resize(have.size());
    }

    const char *device() const override { return whole_->device(); }
    const std::string &source() const override { return whole_->source(); }
    const std::vector<Spec> &inputs() const override { return whole_->inputs(); }
    const std::vector<Spec> &outputs() const override { return outputs_; }
    std::vector<std::string> flags() const override { return whole_->flags(); }

    void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) override {
        given_.clear();
        bool picks = false;
        for (const Bound &bound : outputs) {
            given_.push_back(along_[bound.at] == Along::nothing ? bound : own(bound.at, batch));
            picks = picks || bound.at == picks_;
        }
        if (!picks) given_.push_back(own(picks_, batch));
        whole_->run(inputs, given_, batch);
        const Spec &spec = whole_->outputs()[picks_];
        const std::size_t images = static_cast<std::size_t>(spec.open() ? batch : spec.shape[0]);
        rank(images);
        for (const Bound &bound : outputs) cut(bound, images);
    }

    void run_cuda(const std::vector<Bound> &, const std::vector<Bound> &, std::int64_t, void *) override {
        throw wrong_request("a budget of ", keep_,
                            " is cut on the host; open the bundle without keep, and take the first picks there");
    }

  private:
    static std::size_t place(const std::vector<Spec> &specs, const char *name) {
        const Spec *spec = find(specs, name);
        return spec ? static_cast<std::size_t>(spec - specs.data()) : NONE;
    }

    Bound own(std::size_t at, std::int64_t batch) {
        const Spec &spec = whole_->outputs()[at];
        const std::size_t nbytes = spec.nbytes() * (spec.open() ? static_cast<std::size_t>(batch) : 1);
        if (memory_[at].size() < nbytes) memory_[at].resize(nbytes);
        return {at, memory_[at].data(), nbytes};
    }

    // When each token was picked, in raster order: numpy's argsort of the picks of each image.
    void rank(std::size_t images) {
        const auto *picks = reinterpret_cast<const std::int32_t *>(memory_[picks_].data());
        rows_.resize(images * keep_);
        order_.resize(every_);
        for (std::size_t image = 0; image < images; ++image) {
            const std::int32_t *mine = picks + image * every_;
            for (std::size_t at = 0; at < every_; ++at) order_[at] = at;
            std::sort(order_.begin(), order_.end(), [mine](std::size_t a, std::size_t b) {
                return mine[a] != mine[b] ? mine[a] < mine[b] : a < b;
            });
            std::size_t *row = rows_.data() + image * keep_;
            for (std::size_t at = 0; at < every_; ++at)
                if (order_[at] < keep_) *row++ = at;
        }
    }

    void cut(const Bound &bound, std::size_t images) {
        auto *target = static_cast<unsigned char *>(bound.data);
        const unsigned char *source = memory_[bound.at].data();
        const std::size_t element = size_of(outputs_[bound.at].dtype);
        if (bound.at == scores_) {
            if (greedy_) forget(static_cast<float *>(bound.data), bound.nbytes / sizeof(float) / images, images);
        } else if (bound.at == origin_) {
            renumber(static_cast<std::int32_t *>(bound.data), bound.nbytes / sizeof(std::int32_t) / images, images);
        } else if (bound.at == picks_) {
            for (std::size_t image = 0; image < images; ++image)
                std::memcpy(target + image * keep_ * element, source + image * every_ * element, keep_ * element);
        } else if (along_[bound.at] == Along::images) {
            const std::size_t row = bound.nbytes / (images * keep_);
            for (std::size_t at = 0; at < images * keep_; ++at)
                std::memcpy(target + at * row, source + (at / keep_ * every_ + rows_[at]) * row, row);
        } else if (along_[bound.at] == Along::last) {
            const std::size_t lines = bound.nbytes / (keep_ * element);
            for (std::size_t at = 0; at < lines * keep_; ++at)
                std::memcpy(target + at * element, source + (at / keep_ * every_ + rows_[at % keep_]) * element,
                            element);
        }
    }

    // Scores that are gains: those of the picks that go become -inf. Picks that are none are for parity to find.
    void forget(float *scores, std::size_t patches, std::size_t images) const {
        const auto *picks = reinterpret_cast<const std::int32_t *>(memory_[picks_].data());
        for (std::size_t image = 0; image < images; ++image)
            for (std::size_t at = keep_; at < every_; ++at) {
                const std::int64_t pick = picks[image * every_ + at], last = static_cast<std::int64_t>(patches) - 1;
                const auto gone = static_cast<std::size_t>(std::clamp<std::int64_t>(pick, 0, last));
                scores[image * patches + gone] = -std::numeric_limits<float>::infinity();
            }
    }

    // Places among the tokens: those that are left, -1 for the others. What is no place is for parity to find.
    void renumber(std::int32_t *origin, std::size_t patches, std::size_t images) const {
        for (std::size_t image = 0; image < images; ++image) {
            const std::size_t *row = rows_.data() + image * keep_, *end = row + keep_;
            for (std::int32_t *at = origin + image * patches; at != origin + (image + 1) * patches; ++at) {
                if (*at < 0 || *at >= static_cast<std::int32_t>(every_)) continue;
                const std::size_t *left = std::lower_bound(row, end, static_cast<std::size_t>(*at));
                *at = left != end && *left == static_cast<std::size_t>(*at) ? static_cast<std::int32_t>(left - row) : -1;
            }
        }
    }

    std::unique_ptr<Backend> whole_;
    bool greedy_;
    std::size_t keep_, every_ = 0, picks_ = NONE, scores_ = NONE, origin_ = NONE;
    std::vector<Spec> outputs_;
    std::vector<Along> along_;  // of each output
    std::vector<std::vector<unsigned char>> memory_;
    std::vector<Bound> given_;
    std::vector<std::size_t> rows_, order_;
};

}  // namespace

std::unique_ptr<Backend> cut_to(std::unique_ptr<Backend> whole, const Manifest &manifest, int keep) {
    if (dynamic_cast<const Halves *>(whole.get()))
        throw wrong_request("the halves keep all that the bundle keeps, got a budget of " + std::to_string(keep) +
                            "; open it without, and take the first picks of what comes out");
    return std::make_unique<Cut>(std::move(whole), manifest, keep);
}

}  // namespace edgeprune
