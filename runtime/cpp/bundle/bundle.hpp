// A folder whose files were checked against its manifest, as edgeprune/bundle/reading.py checks them.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "bundle/manifest.hpp"
#include "bundle/mapped.hpp"

namespace edgeprune {

struct Bundle {
    std::string folder;
    Manifest manifest;

    // Throws bad_bundle in one line that names the folder and the file. `hashes`: whether sha256 are compared.
    static Bundle open(const std::string &folder, bool hashes = true);

    // A file of the bundle, mapped when it was checked, for as long as the bundle lives. Throws bad_bundle.
    const Mapped &file(const std::string &name) const;
    std::string path(const std::string &name) const;

    // The files beside a graph that hold its weights, by the name that the graph gives them -> name in the bundle.
    std::map<std::string, std::string> weights(const std::string &graph_file) const;

  private:
    std::map<std::string, std::shared_ptr<Mapped>> mapped_;
};

}  // namespace edgeprune
