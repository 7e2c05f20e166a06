#include "backends/halves.hpp"

#include <algorithm>
#include <cstring>

#include "backends/tensors.hpp"
#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

constexpr const char *PIXELS = "pixel_values";
constexpr std::size_t NONE = static_cast<std::size_t>(-1);
constexpr std::size_t MOST = std::size_t{1} << 46;  // bytes, far more than there is memory
constexpr std::size_t LINE = 64;  // bytes: where tensors begin, as far as the memory they are in does

std::size_t place(const std::vector<Spec> &specs, const std::string &name) {
    const Spec *found = find(specs, name);
    return found ? static_cast<std::size_t>(found - specs.data()) : NONE;
}

// The places of tensors among others, NONE of those that are not there.
std::vector<std::size_t> places(const std::vector<Spec> &of, const std::vector<Spec> &specs) {
    std::vector<std::size_t> found;
    for (const Spec &spec : of) found.push_back(place(specs, spec.name));
    return found;
}

// The tensors between the halves, one behind the other in one piece of memory: the first half writes them there, the
// second one reads them there.
class Seen {
  public:
    // tensors: outputs of the first half; open: whether a run may be of any number of images
    Seen(const std::vector<Spec> &tensors, bool open) : tensors_(tensors), open_(open) {
        for (const Spec &spec : tensors) {
            begins_.push_back(nbytes_);
            nbytes_ += (spec.nbytes() + LINE - 1) / LINE * LINE;
        }
    }

    const std::vector<Spec> &tensors() const { return tensors_; }
    std::size_t nbytes(std::int64_t batch) const { return nbytes_ * images(batch); }
    // All of it as a tensor. Its dtype is the largest, for it says how memory has to be aligned.
    Spec spec() const {
        Spec spec{SEEN, EDGEPRUNE_INT64, {}};
        if (open_) spec.shape.push_back(OPEN);
        spec.shape.push_back(static_cast<std::int64_t>(nbytes_ / size_of(EDGEPRUNE_INT64)));
        return spec;
    }
    // One of the tensors in it; to: its place in the inputs or outputs of a graph
    Bound at(std::size_t number, void *memory, std::int64_t batch, std::size_t to) const {
        const Spec &spec = tensors_[number];
        return {to, static_cast<unsigned char *>(memory) + begins_[number] * images(batch),
                spec.nbytes() * (spec.open() ? images(batch) : 1)};
    }

  private:
    std::size_t images(std::int64_t batch) const { return open_ ? static_cast<std::size_t>(batch) : 1; }

    std::vector<Spec> tensors_;
    bool open_;
    std::vector<std::size_t> begins_;  // of one image
    std::size_t nbytes_ = 0;
};

// A half, whose memory is not where a GPU sees it. seen: of the whole, which has both halves
class Half : public Backend {
  public:
    Half(std::unique_ptr<Backend> graph, const Seen &seen) : graph_(std::move(graph)), seen_(seen) {}

    const char *device() const override { return graph_->device(); }
    const std::string &source() const override { return graph_->source(); }
    const std::vector<Spec> &inputs() const override { return inputs_; }
    const std::vector<Spec> &outputs() const override { return outputs_; }
    void run_cuda(const std::vector<Bound> &, const std::vector<Bound> &, std::int64_t, void *) override {
        throw wrong_request(std::string("what lies between the halves is on the host; open the bundle without split "
                                        "for edgeprune_run_cuda"));
    }

  protected:
    std::unique_ptr<Backend> graph_;
    const Seen &seen_;
    std::vector<Spec> inputs_, outputs_;
    std::vector<Bound> given_, wanted_;  // of the graph
};

class Encode final : public Half {
  public:
    Encode(std::unique_ptr<Backend> graph, const Seen &seen) : Half(std::move(graph), seen) {
        inputs_ = graph_->inputs();
        outputs_.push_back(seen_.spec());
    }
    void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) override {
        wanted_.clear();
        for (std::size_t at = 0; at < seen_.tensors().size(); ++at)
            wanted_.push_back(seen_.at(at, outputs[0].data, batch, at));
        graph_->run(inputs, wanted_, batch);
    }
};

class Select final : public Half {
  public:
    // asked: what the encoder takes beside the pixels
    Select(std::unique_ptr<Backend> graph, const Seen &seen, std::vector<Spec> asked, const std::vector<Spec> &outputs)
        : Half(std::move(graph), seen), inputs_at_(places(asked, graph_->inputs())),
          seen_at_(places(seen_.tensors(), graph_->inputs())), outputs_at_(places(outputs, graph_->outputs())) {
        inputs_ = std::move(asked);
        inputs_.push_back(seen_.spec());
        outputs_ = outputs;
    }
    void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) override {
        given_.clear();
        void *seen = nullptr;
        for (const Bound &bound : inputs) {
            if (bound.at == inputs_at_.size()) seen = bound.data;
            else if (inputs_at_[bound.at] != NONE) given_.push_back({inputs_at_[bound.at], bound.data, bound.nbytes});
        }
        for (std::size_t at = 0; at < seen_at_.size(); ++at)
            if (seen_at_[at] != NONE) given_.push_back(seen_.at(at, seen, batch, seen_at_[at]));
        wanted_.clear();
        for (const Bound &bound : outputs) {
            const std::size_t at = outputs_at_[bound.at];
            if (at != NONE) wanted_.push_back({at, bound.data, bound.nbytes});
            else std::memcpy(bound.data, early(outputs_[bound.at].name, seen, batch).data, bound.nbytes);
        }
        if (!wanted_.empty()) graph_->run(given_, wanted_, batch);
    }

  private:
    // An output that the pixels alone decide.
    Bound early(const std::string &name, void *seen, std::int64_t batch) const {
        return seen_.at(place(seen_.tensors(), name), seen, batch, 0);
    }

    std::vector<std::size_t> inputs_at_, seen_at_, outputs_at_;  // places in the graph; NONE where it has no such one
};

class Both final : public Halves {
  public:
    Both(const Manifest &manifest, std::unique_ptr<Backend> encode, std::unique_ptr<Backend> select)
        : source_(encode->source() + " and " + select->source()), inputs_(manifest.encoder().inputs),
          seen_(encode->outputs(), encode->inputs()[0].open()) {
        const std::vector<Spec> &have = manifest.encoder().outputs;
        outputs_ = wanted_outputs(source_, inputs_, have, manifest, manifest.encoder(), "");
        std::vector<Spec> asked;
        for (const Spec &spec : inputs_) {
            asked_at_.push_back(spec.name == PIXELS ? NONE : asked.size());
            if (spec.name != PIXELS) asked.push_back(spec);
        }
        seen_at_ = asked.size();
        encode_ = std::make_unique<Encode>(std::move(encode), seen_);
        select_ = std::make_unique<Select>(std::move(select), seen_, std::move(asked), outputs_);
    }

    const char *device() const override { return encode_->device(); }
    const std::string &source() const override { return source_; }
    const std::vector<Spec> &inputs() const override { return inputs_; }
    const std::vector<Spec> &outputs() const override { return outputs_; }
    Backend &encode() override { return *encode_; }
    Backend &select() override { return *select_; }

    void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) override {
        const std::size_t nbytes = seen_.nbytes(batch);
        if (memory_.size() < nbytes) memory_.resize(nbytes);
        pixels_.clear();
        asked_.clear();
        for (const Bound &bound : inputs) {
            const std::size_t at = asked_at_[bound.at];
            if (at == NONE) pixels_.push_back({0, bound.data, bound.nbytes});
            else asked_.push_back({at, bound.data, bound.nbytes});
        }
        between_.assign(1, {0, memory_.data(), nbytes});
        encode_->run(pixels_, between_, batch);
        asked_.push_back({seen_at_, memory_.data(), nbytes});
        select_->run(asked_, outputs, batch);
    }
    void run_cuda(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch,
                  void *stream) override {
        encode_->run_cuda(inputs, outputs, batch, stream);  // which refuses
    }

  private:
    std::string source_;
    std::vector<Spec> inputs_, outputs_;
    Seen seen_;
    std::unique_ptr<Half> encode_, select_;
    std::vector<std::size_t> asked_at_;  // places among what the second half takes, of inputs; NONE of the pixels
    std::size_t seen_at_;
    std::vector<unsigned char> memory_;
    std::vector<Bound> pixels_, asked_, between_;
};

bool has(const std::vector<Spec> &specs, const Spec &wanted) {
    const Spec *found = find(specs, wanted.name);
    return found && found->dtype == wanted.dtype && found->shape == wanted.shape;
}

// A tensor that keeps the two from making up the encoder; nullptr where there is none.
const Spec *misfit(const Graph &whole, const Backend &encode, const Backend &select) {
    for (const Spec &spec : encode.inputs())
        if (spec.name != PIXELS || !has(whole.inputs, spec)) return &spec;
    const bool open = encode.inputs()[0].open();
    for (const Spec &spec : encode.outputs())
        if ((spec.open() && !open) || spec.nbytes() > MOST / encode.outputs().size()) return &spec;
    for (const Spec &spec : select.inputs())
        if (spec.name == PIXELS || (!has(encode.outputs(), spec) && !has(whole.inputs, spec))) return &spec;
    for (const Spec &spec : whole.outputs)
        if (!has(select.outputs(), spec) && !has(encode.outputs(), spec)) return &spec;
    return nullptr;
}

}  // namespace

void check_halves(const Bundle &bundle, edgeprune_device device) {
    if (!bundle.manifest.halves())
        throw wrong_request(shown(bundle.folder) +
                            " holds the encoder as one graph; export it with --split to encode once and ask often");
    if (device == EDGEPRUNE_TENSORRT)
        throw wrong_request(std::string("the halves run in ONNX Runtime, on cpu or cuda, got device tensorrt: a plan "
                                        "holds the encoder whole; open the bundle on one of these"));
}

std::unique_ptr<Halves> open_halves(Bundle &bundle, const Choice &choice) {
    Choice half = choice;
    half.split = false;
    half.graph = ENCODE;
    std::unique_ptr<Backend> encode = open_backend(bundle, half);
    half.graph = SELECT;
    std::unique_ptr<Backend> select = open_backend(bundle, half);
    if (const Spec *odd = misfit(bundle.manifest.encoder(), *encode, *select))
        throw bad_bundle(shown(bundle.folder) + ": " + encode->source() + " and " + select->source() +
                         " do not make up the encoder: " + odd->name + " " + odd->shown() +
                         " has no place there; export the bundle again");
    return std::make_unique<Both>(bundle.manifest, std::move(encode), std::move(select));
}

}  // namespace edgeprune
