// The probes of a bundle: what the graph is given, what the reference made of it, and how an output is held against it.
// Mirrors runtime/parity/stored.py, which says how reference.safetensors is laid out.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "parity/parity.hpp"

namespace edgeprune::parity {

using Memory = std::vector<unsigned char>;

struct Probe {
    Tensors inputs;          // what the graph is given
    Tensors outputs;         // what the reference made of it
    Json rule;               // how decisions are judged
    Tensors quantities;      // what the rule replays them by; symmetric ones [B, N, N]
    bool whole = false;      // whether every output hangs on all that are kept
    Json quantised;          // that of the manifest; null of a float graph
    std::optional<View> images;  // [B, H, W, 3] uint8 of any size, from which pixel_values come; where there are such
    std::vector<Memory> memory;  // of what is not in the file as it is here

    // How the outputs of a backend compare with the reference's. dtype: the float that it computes in, whatever it hands
    // out.
    Verdict compare(const Tensors &got, const std::string &dtype) const;
    // With the first `keep` picks of the reference alone, as the first of a device's are held against it. Throws
    // wrong_request when keep is not in 1..K, or there are no picks.
    void cut(int keep);
};

// reference.safetensors of a bundle, which must outlive it.
class Reference {
  public:
    // Throws bad_bundle when something is missing.
    explicit Reference(const Bundle &bundle);
    // Of a manifest and the tensors of the file; folder: of the bundle, as errors name it.
    Reference(const Manifest &manifest, const std::string &folder, std::map<std::string, View> tensors);

    const std::vector<std::string> &names() const { return names_; }
    Probe read(const std::string &name) const;

  private:
    const Manifest &manifest_;
    std::map<std::string, View> file_;
    std::vector<std::string> names_, quantities_;
};

}  // namespace edgeprune::parity
