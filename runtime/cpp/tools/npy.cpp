// Format  https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0
#include "tools/npy.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "error.hpp"

namespace edgeprune::tools {
namespace {

const char *spelt(DType dtype) {
    switch (dtype) {
        case EDGEPRUNE_FLOAT32: return "<f4";
        case EDGEPRUNE_FLOAT16: return "<f2";
        case EDGEPRUNE_UINT8: return "|u1";
        case EDGEPRUNE_INT8: return "|i1";
        case EDGEPRUNE_INT32: return "<i4";
        case EDGEPRUNE_INT64: return "<i8";
        case EDGEPRUNE_BOOL: return "|b1";
    }
    throw wrong_request("there is no dtype ", static_cast<int>(dtype));
}

// What stands in front of the elements, which begin at a multiple of 64 bytes.
std::string header_of(const View &tensor) {
    std::string shape;
    for (const std::int64_t size : tensor.shape) shape += std::to_string(size) + ",";
    std::string text = "{'descr': '" + std::string(spelt(tensor.dtype)) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    const std::string magic("\x93NUMPY\x01\x00", 8);
    const std::size_t before = magic.size() + 2;
    text.append(63 - (before + text.size()) % 64, ' ');
    text += '\n';
    return magic + static_cast<char>(text.size() & 0xffU) + static_cast<char>(text.size() >> 8) + text;
}

constexpr const char *MAGIC = "\x93NUMPY";
constexpr std::size_t MAGIC_NBYTES = 6;

// What stands behind a name in a header, from its first character that is no space; "" where it is not there.
std::string behind(const std::string &header, const std::string &name) {
    const std::size_t found = header.find("'" + name + "':");
    if (found == std::string::npos) return "";
    const std::size_t at = header.find_first_not_of(' ', found + name.size() + 3);
    return at == std::string::npos ? "" : header.substr(at);
}

struct Dtype {
    std::string name;
    std::size_t nbytes;
};

Dtype dtype_of(const std::string &spelling) {
    for (const DType dtype : {EDGEPRUNE_FLOAT32, EDGEPRUNE_FLOAT16, EDGEPRUNE_UINT8, EDGEPRUNE_INT8, EDGEPRUNE_INT32,
                              EDGEPRUNE_INT64, EDGEPRUNE_BOOL})
        if (spelling == spelt(dtype)) return {name_of(dtype), size_of(dtype)};
    return {spelling == "<f8" ? "float64" : spelling, 0};
}

}  // namespace

bool is_npy(const std::string &file) { return file.compare(0, MAGIC_NBYTES, MAGIC) == 0; }

Npy read_npy(const std::string &file, const std::string &name) {
    const auto wrong = [&](const char *why) {
        return bad_image(name, " is no .npy that can be read: ", why, "; write it with numpy.save");
    };
    const auto byte = [&](std::size_t at) { return static_cast<std::size_t>(static_cast<unsigned char>(file[at])); };
    if (!is_npy(file) || file.size() < 12) throw wrong("it ends in its header");
    const bool first = byte(6) == 1;  // the length of the header has 2 bytes, in later versions 4
    const std::size_t begins = first ? 10 : 12;
    const std::size_t length = byte(8) | byte(9) << 8 | (first ? 0 : byte(10) << 16 | byte(11) << 24);
    if (length > file.size() - begins) throw wrong("it ends in its header");
    const std::string header = file.substr(begins, length), spelling = behind(header, "descr");
    const std::size_t ends = spelling.find('\'', 1);
    if (spelling.empty() || spelling[0] != '\'' || ends == std::string::npos) throw wrong("it has no simple dtype");
    if (behind(header, "fortran_order").compare(0, 5, "False") != 0) throw wrong("it is not in C order");
    const Dtype dtype = dtype_of(spelling.substr(1, ends - 1));
    Npy array{dtype.name, {}, file.substr(begins + length)};
    const std::string shape = behind(header, "shape");
    if (shape.empty() || shape[0] != '(') throw wrong("it has no shape");
    std::size_t total = dtype.nbytes;
    const char *at = shape.c_str() + 1;
    for (char *next = nullptr; *at != ')'; at = next) {
        errno = 0;
        const std::int64_t size = std::strtoll(at, &next, 10);
        if (next == at || errno || size < 0 || (*next != ',' && *next != ')')) throw wrong("it has no shape");
        if (__builtin_mul_overflow(total, static_cast<std::size_t>(size), &total)) throw wrong("it is too large");
        array.shape.push_back(size);
        while (*next == ',' || *next == ' ') ++next;
    }
    if (dtype.nbytes && array.bytes.size() != total) throw wrong("it has not the bytes that its shape says");
    return array;
}

void write_npy(const std::string &path, const View &tensor) {
    const std::string fresh = path + "." + std::to_string(getpid()) + ".part", header = header_of(tensor);
    const std::size_t nbytes = tensor.count() * size_of(tensor.dtype);
    std::FILE *file = std::fopen(fresh.c_str(), "wbx");
    bool done = file && std::fwrite(header.data(), 1, header.size(), file) == header.size() &&
                std::fwrite(tensor.data, 1, nbytes, file) == nbytes;
    int why = errno;
    if (file && std::fclose(file) != 0 && done) {
        done = false;
        why = errno;
    }
    if (done && std::rename(fresh.c_str(), path.c_str()) == 0) return;
    if (done) why = errno;
    if (file) std::remove(fresh.c_str());
    throw failed(path, " cannot be written: ", std::strerror(why), "; make room there, or name another place");
}

}  // namespace edgeprune::tools
