// A small bundle for tests, made where they run, and a folder that goes when they end.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <unistd.h>

#include "bundle/sha256.hpp"
#include "bundle/value.hpp"
#include "error.hpp"

namespace made {

namespace fs = std::filesystem;

class Folder {
  public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "edgeprune-XXXXXX").string();
        if (!mkdtemp(&name[0])) throw edgeprune::failed(name, " cannot be made");
        path_ = name;
    }
    ~Folder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    fs::path operator/(const std::string &name) const { return path_ / name; }
    std::string text() const { return path_.string(); }

  private:
    fs::path path_;
};

inline void write(const fs::path &path, const std::string &content) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

inline std::string read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// An ONNX graph with a weight in `encoder.data`.
inline std::string graph() {
    const auto field = [](int number, const std::string &content) {
        return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(content.size())} + content;
    };
    const std::string entry = field(1, "location") + field(2, "encoder.data");
    return std::string("\x08\x0a") + field(7, field(5, field(13, entry)));
}

// manifest.json of these files, with a digest that is right.
inline std::string manifest(const std::string &encoder, const std::string &data) {
    const auto file = [](const std::string &content) {
        return R"({"size": )" + std::to_string(content.size()) + R"(, "sha256": ")" +
               edgeprune::sha256(content.data(), content.size()) + "\"}";
    };
    const std::string text = R"({"method": "fastervlm", "options": {"share": 0.25, "mode": null}, "keep": 5,
 "grid": [4, 6], "tiles": 2,
 "model": {"id": "owner/näme", "revision": "0", "family": "clip", "layer": 3, "features": "x"},
 "precision": "float16", "graphs": {"encoder": {"file": "encoder.onnx",
  "inputs": {"pixel_values": {"shape": ["batch", 3, 32, 48], "dtype": "float16"}},
  "outputs": {"tokens": {"shape": ["batch", 5, 7], "dtype": "float16"},
              "indices": {"shape": ["batch", 5], "dtype": "int32"},
              "scores": {"shape": ["batch", 24], "dtype": "float32"}}}},
 "preprocessing": {"size": [32, 48], "rescale": 0.00392156862745098, "std": [1e-05, 1E3]}, "target": "cpu",
 "cost": {"formula": 3}, "deviations": [], "versions": {}, "steps": [[2, 12], [3, 5]], "nested": true,
 "labels": ["cat", "\u00e4\ud83d\ude00"], "rule": {"name": "topk"}, "schema_version": "2.0",
 "files": {"encoder.onnx": )" + file(encoder) + R"(, "encoder.data": )" + file(data) + "}";
    const std::string content = edgeprune::canonical(*edgeprune::parse(text + "}"));
    return text + R"(, "digest": ")" + edgeprune::sha256(content.data(), content.size()) + "\"}";
}

inline void bundle(const Folder &folder) {
    const std::string data(64, 'w');
    write(folder / "encoder.onnx", graph());
    write(folder / "encoder.data", data);
    write(folder / "manifest.json", manifest(graph(), data));
}

}  // namespace made
