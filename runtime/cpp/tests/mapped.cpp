// A mapped file knows whether a path still leads to it.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <unistd.h>

#include "bundle/mapped.hpp"
#include "check.hpp"

namespace {

using edgeprune::Mapped;

void write(const std::string &path, const char *text) { std::ofstream(path) << text; }

}  // namespace

int main() {
    std::string folder = (std::filesystem::temp_directory_path() / "mapped-XXXXXX").string();
    if (!mkdtemp(folder.data())) return 2;
    const std::string path = folder + "/weights", link = path + ".link", other = path + ".new";
    write(path, "the weights");
    write(other, "the weights");
    {
        const Mapped file(path, "weights");
        check::holds(file.is_at(path));
        check::holds(!file.is_at(other));
        check::holds(!file.is_at(folder));
        check::same(symlink(path.c_str(), link.c_str()), 0);
        check::holds(file.is_at(link));
        file.rest();
        check::same(std::memcmp(file.data(), "the weights", file.size()), 0);  // it comes back
        check::same(std::rename(other.c_str(), path.c_str()), 0);
        check::holds(!file.is_at(path));
        check::holds(!file.is_at(link));
        check::same(std::remove(path.c_str()), 0);
        check::holds(!file.is_at(path));
    }
    std::remove(link.c_str());
    rmdir(folder.c_str());
    return check::done();
}
