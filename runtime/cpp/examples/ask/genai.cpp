// As runtime/generate/genai.py: the encoder has run by then, and its tokens go in where genai's own pipeline would run a
// vision model, through one Identity (tokens.onnx).
#include "genai.hpp"

#include <stdexcept>
#include <utility>

#include <dlfcn.h>
#include <nlohmann/json.hpp>

namespace {

constexpr const char *LIBRARY = "libonnxruntime-genai.so";
constexpr const char *HANDED_IN = R"({"model": {"vision": {"filename": "tokens.onnx",
    "inputs": {"pixel_values": "image_tokens"}, "outputs": {"image_features": "image_features"}}}})";

// What OgaCreate... made, until the end of its block.
template <class T>
class Owned {
  public:
    explicit Owned(void (*destroy)(T *)) : destroy_(destroy) {}
    ~Owned() {
        if (made_) destroy_(made_);
    }
    Owned(const Owned &) = delete;
    Owned &operator=(const Owned &) = delete;
    T **out() { return &made_; }
    operator T *() const { return made_; }

  private:
    T *made_ = nullptr;
    void (*destroy_)(T *);
};

}  // namespace

#define OGA_FUNCTIONS(each)                                                                                             \
    each(OgaResultGetError) each(OgaDestroyResult) each(OgaDestroyString) each(OgaShutdown)                             \
    each(OgaCreateConfig) each(OgaConfigOverlay) each(OgaDestroyConfig)                                                 \
    each(OgaCreateModelFromConfig) each(OgaDestroyModel)                                                                \
    each(OgaCreateTokenizer) each(OgaUpdateTokenizerOptions) each(OgaTokenizerGetBosTokenId)                            \
    each(OgaTokenizerApplyChatTemplate) each(OgaTokenizerEncode) each(OgaDestroyTokenizer)                              \
    each(OgaCreateTokenizerStream) each(OgaTokenizerStreamDecode) each(OgaDestroyTokenizerStream)                       \
    each(OgaCreateSequences) each(OgaSequencesGetSequenceCount) each(OgaSequencesGetSequenceData)                       \
    each(OgaDestroySequences)                                                                                           \
    each(OgaCreateTensorFromBuffer) each(OgaDestroyTensor)                                                              \
    each(OgaCreateNamedTensors) each(OgaNamedTensorsSet) each(OgaDestroyNamedTensors)                                   \
    each(OgaCreateGeneratorParams) each(OgaGeneratorParamsSetSearchNumber) each(OgaGeneratorParamsSetSearchBool)        \
    each(OgaDestroyGeneratorParams)                                                                                     \
    each(OgaCreateGenerator) each(OgaGenerator_SetInputs) each(OgaGenerator_AppendTokens) each(OgaGenerator_IsDone)     \
    each(OgaGenerator_GenerateNextToken) each(OgaGenerator_GetNextTokens) each(OgaDestroyGenerator)

struct Oga {
#define MEMBER(name) decltype(&::name) name = nullptr;
    OGA_FUNCTIONS(MEMBER)
#undef MEMBER

    explicit Oga(const std::string &named) {
        const std::string file = named.empty() ? LIBRARY : named;
        void *library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) throw std::runtime_error(std::string(dlerror()) + "; name onnxruntime-genai's library by EDGEPRUNE_GENAI");
#define FIND(name)                                                                                                      \
    name = reinterpret_cast<decltype(name)>(dlsym(library, #name));                                                     \
    if (!name) throw std::runtime_error(file + " has no " #name "; it must be onnxruntime-genai 0.18");
        OGA_FUNCTIONS(FIND)
#undef FIND
    }

    void check(OgaResult *result) const {
        if (!result) return;
        const std::string why = OgaResultGetError(result);
        OgaDestroyResult(result);
        throw std::runtime_error("onnxruntime-genai: " + why.substr(0, why.find('\n')));
    }
};

Decoder::Decoder(const std::string &library, const std::string &folder) : oga_(std::make_unique<Oga>(library)) {
    Owned<OgaConfig> config(oga_->OgaDestroyConfig);
    oga_->check(oga_->OgaCreateConfig(folder.c_str(), config.out()));
    oga_->check(oga_->OgaConfigOverlay(config, HANDED_IN));
    Owned<OgaModel> model(oga_->OgaDestroyModel);
    oga_->check(oga_->OgaCreateModelFromConfig(config, model.out()));
    oga_->check(oga_->OgaCreateTokenizer(model, &tokenizer_));
    std::swap(*model.out(), model_);
}

Decoder::~Decoder() {
    oga_->OgaDestroyTokenizer(tokenizer_);
    oga_->OgaDestroyModel(model_);
    oga_->OgaShutdown();
}

std::vector<std::int32_t> Decoder::prompt(const std::string &question) const {
    using Json = nlohmann::json;
    const Json content{{{"type", "image"}}, {{"type", "text"}, {"text", question}}};
    const std::string messages = Json::array({{{"role", "user"}, {"content", content}}}).dump();
    const char *written = nullptr;
    oga_->check(oga_->OgaTokenizerApplyChatTemplate(tokenizer_, nullptr, messages.c_str(), nullptr, true, &written));
    const std::string text = written;
    oga_->OgaDestroyString(written);

    // What a tokenizer puts in front (LLaVA's <s>) is its own to put, but where the template has written it.
    std::int32_t bos = 0;
    oga_->check(oga_->OgaTokenizerGetBosTokenId(tokenizer_, &bos));
    std::vector<std::int32_t> ids;
    for (const char *special : {"false", "true"}) {
        const char *key = "add_special_tokens";
        oga_->check(oga_->OgaUpdateTokenizerOptions(tokenizer_, &key, &special, 1));
        Owned<OgaSequences> found(oga_->OgaDestroySequences);
        oga_->check(oga_->OgaCreateSequences(found.out()));
        oga_->check(oga_->OgaTokenizerEncode(tokenizer_, text.c_str(), found));
        const std::int32_t *first = oga_->OgaSequencesGetSequenceData(found, 0);
        ids.assign(first, first + oga_->OgaSequencesGetSequenceCount(found, 0));
        if (!ids.empty() && ids[0] == bos) break;
    }
    return ids;
}

void Decoder::answer(const std::vector<std::int32_t> &ids, const edgeprune_tensor &tokens, void *data, std::size_t room,
                     const std::function<void(const char *)> &heard) const {
    const auto type = tokens.dtype == EDGEPRUNE_FLOAT16 ? OgaElementType_float16 : OgaElementType_float32;
    const std::int64_t one = 1;
    std::int64_t count = tokens.shape[1];
    Owned<OgaTensor> features(oga_->OgaDestroyTensor), counts(oga_->OgaDestroyTensor);
    oga_->check(oga_->OgaCreateTensorFromBuffer(data, tokens.shape, 3, type, features.out()));
    oga_->check(oga_->OgaCreateTensorFromBuffer(&count, &one, 1, OgaElementType_int64, counts.out()));
    Owned<OgaNamedTensors> inputs(oga_->OgaDestroyNamedTensors);
    oga_->check(oga_->OgaCreateNamedTensors(inputs.out()));
    for (const char *name : {"pixel_values", "image_tokens"})  // as genai knows it, and as tokens.onnx does
        oga_->check(oga_->OgaNamedTensorsSet(inputs, name, features));
    oga_->check(oga_->OgaNamedTensorsSet(inputs, "num_image_tokens", counts));

    Owned<OgaGeneratorParams> params(oga_->OgaDestroyGeneratorParams);
    oga_->check(oga_->OgaCreateGeneratorParams(model_, params.out()));
    oga_->check(oga_->OgaGeneratorParamsSetSearchNumber(params, "max_length", static_cast<double>(room)));
    oga_->check(oga_->OgaGeneratorParamsSetSearchBool(params, "do_sample", false));
    Owned<OgaTokenizerStream> stream(oga_->OgaDestroyTokenizerStream);
    oga_->check(oga_->OgaCreateTokenizerStream(tokenizer_, stream.out()));
    Owned<OgaGenerator> generator(oga_->OgaDestroyGenerator);
    oga_->check(oga_->OgaCreateGenerator(model_, params, generator.out()));
    oga_->check(oga_->OgaGenerator_SetInputs(generator, inputs));
    oga_->check(oga_->OgaGenerator_AppendTokens(generator, ids.data(), ids.size()));
    while (!oga_->OgaGenerator_IsDone(generator)) {
        const std::int32_t *next = nullptr;
        std::size_t several = 0;
        const char *piece = nullptr;
        oga_->check(oga_->OgaGenerator_GenerateNextToken(generator));
        oga_->check(oga_->OgaGenerator_GetNextTokens(generator, &next, &several));
        oga_->check(oga_->OgaTokenizerStreamDecode(stream, next[0], &piece));
        heard(piece);
    }
}
