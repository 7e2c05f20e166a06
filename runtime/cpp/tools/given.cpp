#include "tools/given.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "error.hpp"
#include "tools/npy.hpp"

namespace edgeprune::tools {
namespace {

std::string shown(const std::vector<std::int64_t> &shape) {
    std::string text;
    for (const std::int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "[" + text + "]";
}

// Single floats as halves.
std::string rounded(const std::string &singles) {
    std::string halves(singles.size() / 2, '\0');
    for (std::size_t at = 0; at < halves.size(); at += sizeof(std::uint16_t)) {
        float single;
        std::memcpy(&single, &singles[2 * at], sizeof single);
        const std::uint16_t half = half_of(single);
        std::memcpy(&halves[at], &half, sizeof half);
    }
    return halves;
}

// Whether it is all of a tensor, or what one image has of it.
bool fits(const std::vector<std::int64_t> &shape, const Spec &spec) {
    std::vector<std::int64_t> whole = spec.shape;
    if (spec.open()) whole[0] = 1;
    if (shape == whole || whole.empty()) return shape == whole;
    std::vector<std::int64_t> one = whole;
    one[0] = 1;
    return shape == one || shape == std::vector<std::int64_t>(whole.begin() + 1, whole.end());
}

}  // namespace

std::string read_file(const std::string &name, const std::string &remedy) {
    if (name == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
    std::error_code unknown;
    const bool folder = std::filesystem::is_directory(name, unknown);  // whose bytes are an exception of iostream's
    std::ifstream stream(name, std::ios::binary);
    std::string file;
    if (!folder) file.assign(std::istreambuf_iterator<char>(stream), {});
    if (folder || !stream) throw bad_image(name, " cannot be read; ", remedy);
    return file;
}

std::map<std::string, std::string> files_of(const std::vector<std::string> &words) {
    std::map<std::string, std::string> files;
    for (const std::string &word : words) {
        const std::size_t at = word.find('=');
        if (at == std::string::npos || at == 0 || at + 1 == word.size())
            throw wrong_request("--input must be NAME=FILE, as text=question.npy, got ", word);
        if (!files.emplace(word.substr(0, at), word.substr(at + 1)).second)
            throw wrong_request("--input ", word.substr(0, at), " must be given once");
    }
    return files;
}

std::vector<unsigned char> read_input(const std::string &name, const Spec &spec) {
    std::string file = read_file(name, "name a .npy, or a file of the numbers' bytes alone");
    const std::string dtype = name_of(spec.dtype);
    const auto misfit = [&](const std::string &got) {
        return bad_image(name, ": ", spec.name, " must be ", spec.shown(), ", got ", got, "; cast or reshape it");
    };
    if (is_npy(file)) {
        const Npy array = read_npy(file, name);
        const bool rounds = array.dtype == "float32" && spec.dtype == EDGEPRUNE_FLOAT16;
        if ((array.dtype != dtype && !rounds) || !fits(array.shape, spec))
            throw misfit(array.dtype + " " + shown(array.shape));
        file = rounds ? rounded(array.bytes) : array.bytes;
    }
    const std::size_t nbytes = spec.nbytes();
    const bool several = !spec.open() && !spec.shape.empty();
    const std::size_t images = several ? static_cast<std::size_t>(spec.shape[0]) : 1;
    if (file.size() != nbytes && file.size() != nbytes / images) throw misfit(std::to_string(file.size()) + " bytes");
    std::vector<unsigned char> memory;
    while (memory.size() < nbytes) memory.insert(memory.end(), file.begin(), file.end());
    return memory;
}

}  // namespace edgeprune::tools
