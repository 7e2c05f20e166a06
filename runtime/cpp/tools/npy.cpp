// Format  https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0
#include "tools/npy.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
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

}  // namespace

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
