// A folder: a byte, then manifest.json up to a NUL, then encoder.onnx. Beside it lies w.data, "data".
//
// The byte says what is put right before it is opened: 1 the digest, 2 the sizes and hashes of files, too.
#include <cstdio>
#include <fstream>
#include <memory>

#include <sys/stat.h>
#include <unistd.h>

#include "bundle/bundle.hpp"
#include "bundle/onnx_data.hpp"
#include "bundle/typed.hpp"
#include "held.hpp"

namespace {

using namespace held;

// A folder of this process, which goes at its end.
struct Folder {
    std::string path;

    Folder() {
        const char *temporary = std::getenv("TMPDIR");
        const char *fast = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        path = std::string(temporary ? temporary : fast) + "/edgeprune-fuzz-XXXXXX";
        must(mkdtemp(&path[0]) != nullptr);
        write("w.data", "data");
    }
    ~Folder() {
        for (const char *name : {"manifest.json", "encoder.onnx", "w.data"}) unlink((path + "/" + name).c_str());
        rmdir(path.c_str());
    }
    void write(const char *name, const std::string &content) const {
        std::ofstream(path + "/" + name, std::ios::binary | std::ios::trunc) << content;
    }
};

// The entries of `files` that are there, as the files are.
void describe(Value &manifest, const std::string &graph) {
    auto *members = std::get_if<Object>(&manifest.is);
    if (!members) return;
    for (auto &member : *members) {
        auto *files = member.first == "files" ? std::get_if<Object>(&member.second.is) : nullptr;
        if (!files) continue;
        for (auto &[name, entry] : *files) {
            if (name != "encoder.onnx" && name != "w.data") continue;
            const std::string content = name == "encoder.onnx" ? graph : "data";
            entry = {Object{{"size", {static_cast<std::int64_t>(content.size())}},
                            {"sha256", {sha256(content.data(), content.size())}}}};
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    static const Folder folder;
    if (!size) return 0;
    std::string manifest(reinterpret_cast<const char *>(data) + 1, size - 1), graph;
    if (const std::size_t nul = manifest.find('\0'); nul != std::string::npos) {
        graph = manifest.substr(nul + 1);
        manifest.resize(nul);
    }
    if (std::optional<Value> value = data[0] & 3 ? parse(manifest) : std::nullopt) {
        if (data[0] & 2) describe(*value, graph);
        manifest = sealed(*value);
    }
    folder.write("manifest.json", manifest);
    folder.write("encoder.onnx", graph);
    taken([&] {
        const Bundle bundle = Bundle::open(folder.path);
        for (const auto &[name, file] : bundle.manifest.files) must(bundle.file(name).size() == file.size);
        for (const auto &[name, one] : bundle.manifest.graphs)
            for (const auto &weights : bundle.weights(one.file)) must(bundle.manifest.files.count(weights.second));
    });
    // The walk through the graph again, where a byte too far is seen.
    const std::unique_ptr<unsigned char[]> exact(new unsigned char[graph.size()]);
    std::copy(graph.begin(), graph.end(), exact.get());
    try {
        for (const std::string &location : external_files({exact.get(), graph.size()})) must(is_utf8(location));
    } catch (const Wrong &wrong) {
        must(is_printable(wrong.what()));
    }
    return 0;
}
