#include "bundle/bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle/onnx_data.hpp"
#include "bundle/places.hpp"
#include "bundle/schema.hpp"
#include "bundle/sha256.hpp"
#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {

namespace {

constexpr std::size_t MANIFEST_NBYTES = 16 << 20;  // far more than one has

// The text of a folder's manifest. A pipe would be waited for, and a device never ends: only a file is read, and only
// so far. Throws bad_bundle.
std::string read_manifest(const std::string &folder) {
    const auto unreadable = [&](const std::string &why) {
        return bad_bundle(shown(folder), " is not a bundle: ", why, "; make one with `edgeprune export`");
    };
    const std::string none = std::string("it has no readable ") + MANIFEST, its = std::string("its ") + MANIFEST;
    const int descriptor = ::open(join(folder, MANIFEST).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) throw unreadable(none);
    const struct Closing {
        int descriptor;
        ~Closing() { close(descriptor); }
    } closing{descriptor};
    struct stat found;
    if (fstat(descriptor, &found) || S_ISDIR(found.st_mode)) throw unreadable(none);
    if (!S_ISREG(found.st_mode)) throw unreadable(its + " is not a file");
    std::string text;
    for (;;) {
        const std::size_t had = text.size(), wanted = std::min<std::size_t>(MANIFEST_NBYTES + 1 - had, 1 << 16);
        text.resize(had + wanted);
        const ssize_t got = ::read(descriptor, &text[had], wanted);
        text.resize(had + static_cast<std::size_t>(got < 0 ? 0 : got));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw unreadable(none);
        if (text.size() > MANIFEST_NBYTES) throw unreadable(its + " is longer than 16 MiB");
        if (got == 0) break;
    }
    if (!is_utf8(text)) throw unreadable(none);
    return text;
}

// A file of the manifest, of the size and with the hash that stand there. Throws bad_bundle.
std::shared_ptr<Mapped> checked(const std::string &folder, const std::string &name, const File &expected, bool hashes) {
    if (leaves(name)) throw bad_bundle(MANIFEST, " names ", repr(name), ", which leaves the bundle; do not use it");
    auto file = std::make_shared<Mapped>(join(folder, name), name);
    if (file->size() != expected.size)
        throw bad_bundle(name, " has ", file->size(), " bytes, ", MANIFEST, " says ", expected.size,
                         "; copy the bundle again");
    if (hashes && sha256(file->data(), file->size()) != expected.sha256)
        throw bad_bundle(name, " has changed since the export (sha256 differs); copy the bundle again");
    return file;
}

// The locations that a graph names -> their names in the bundle. Throws bad_bundle for one that it does not list.
std::map<std::string, std::string> weights_of(const Mapped &graph, const std::string &name, const Manifest &manifest) {
    std::map<std::string, std::string> found;
    try {
        for (const std::string &location : external_files(graph)) found.emplace(location, join(parent(name), location));
    } catch (const Wrong &wrong) {
        throw bad_bundle(name, " is not an ONNX graph (", wrong.what(), "); export the bundle again");
    }
    for (const auto &[location, beside] : found)
        if (!manifest.files.count(beside))
            throw bad_bundle(name, " reads ", first(repr(location), 100), ", which ", MANIFEST,
                             " does not list; do not use it");
    return found;
}

}  // namespace

Bundle Bundle::open(const std::string &given, bool hashes) {
    Bundle bundle;
    bundle.folder = find_folder(given);
    const std::string text = read_manifest(bundle.folder);
    try {
        bundle.manifest = Manifest::read(text);
        for (const auto &[name, expected] : bundle.manifest.files)
            bundle.mapped_.emplace(name, checked(bundle.folder, name, expected, hashes));
        for (const auto &[name, graph] : bundle.manifest.graphs) {
            if (!bundle.manifest.files.count(graph.file))
                throw bad_bundle(MANIFEST, " lists no ", graph.file, ", the graph ", name, "; export the bundle again");
            weights_of(bundle.file(graph.file), graph.file, bundle.manifest);
        }
    } catch (const Error &error) {
        throw Error(error.status, shown(bundle.folder) + ": " + error.what());
    }
    return bundle;
}

const Mapped &Bundle::file(const std::string &name) const {
    const auto found = mapped_.find(name);
    if (found == mapped_.end()) {
        std::string have;
        for (const auto &one : mapped_) have += (have.empty() ? "" : ", ") + one.first;
        throw bad_bundle(shown(folder), " has no file ", shown(name), "; it has ", have);
    }
    return *found->second;
}

std::string Bundle::path(const std::string &name) const {
    file(name);
    return join(folder, name);
}

std::map<std::string, std::string> Bundle::weights(const std::string &graph_file) const {
    return weights_of(file(graph_file), graph_file, manifest);
}

}  // namespace edgeprune
