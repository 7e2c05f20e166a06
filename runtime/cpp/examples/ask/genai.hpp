// The decoder of an assembled model in onnxruntime-genai, whose library is opened at run time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "edgeprune.h"
#include "oga.h"

// The functions of the library, each by its name.
struct Oga;

// Everything throws std::runtime_error, with one line.
class Decoder {
  public:
    // folder: of the model, assembled with --engine genai. library: file name; "" for the system's search. Where a bundle
    // is open already, genai takes that same ONNX Runtime.
    Decoder(const std::string &library, const std::string &folder);
    ~Decoder();

    // Words and one image in front of them -> ids, with one placeholder, by the model's own chat template.
    std::vector<std::int32_t> prompt(const std::string &question) const;

    // The likeliest answer, piece by piece. ids: of the prompt, with as many image ids as there are tokens, which genai
    // does not count. tokens: [1, K, D] as the encoder gives them; room: of prompt and answer together, in ids
    void answer(const std::vector<std::int32_t> &ids, const edgeprune_tensor &tokens, void *data, std::size_t room,
                const std::function<void(const char *)> &heard) const;

  private:
    std::unique_ptr<Oga> oga_;
    OgaModel *model_ = nullptr;
    OgaTokenizer *tokenizer_ = nullptr;
};
