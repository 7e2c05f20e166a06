// A safetensors file as the package of Hugging Face writes it: largest elements first, then by name, so that all of
// them are aligned.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "bundle/safetensors.hpp"
#include "bundle/shown.hpp"
#include "bundle/value.hpp"
#include "error.hpp"

namespace edgeprune {

namespace {

const char *spelt(DType dtype) {
    switch (dtype) {
        case EDGEPRUNE_FLOAT32: return "F32";
        case EDGEPRUNE_FLOAT16: return "F16";
        case EDGEPRUNE_UINT8: return "U8";
        case EDGEPRUNE_INT8: return "I8";
        case EDGEPRUNE_INT32: return "I32";
        case EDGEPRUNE_INT64: return "I64";
        case EDGEPRUNE_BOOL: return "BOOL";
    }
    throw wrong_request("there is no dtype ", static_cast<int>(dtype));
}

using Tensor = std::pair<std::string, const View *>;

std::string header_of(const std::vector<Tensor> &tensors) {
    Object entries;
    std::int64_t at = 0;
    for (const auto &[name, view] : tensors) {
        const auto nbytes = static_cast<std::int64_t>(view->count() * size_of(view->dtype));
        Array shape;
        for (const std::int64_t size : view->shape) shape.push_back({size});
        entries.emplace_back(name, Value{Object{{"dtype", {std::string(spelt(view->dtype))}},
                                                {"shape", {shape}},
                                                {"data_offsets", {Array{{at}, {at + nbytes}}}}}});
        at += nbytes;
    }
    std::string json = canonical({entries});
    json.append((8 - json.size() % 8) % 8, ' ');
    std::string header;
    for (unsigned byte = 0; byte < 8; ++byte) header += static_cast<char>(json.size() >> (8 * byte) & 0xffU);
    return header + json;
}

bool write_all(int descriptor, const void *data, std::size_t nbytes) {
    const char *at = static_cast<const char *>(data);
    while (nbytes) {
        const ssize_t done = write(descriptor, at, nbytes);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        at += done;
        nbytes -= static_cast<std::size_t>(done);
    }
    return true;
}

}  // namespace

void write_safetensors(const std::string &path, const std::map<std::string, View> &views) {
    std::vector<Tensor> tensors;
    for (const auto &[name, view] : views) tensors.emplace_back(name, &view);
    std::stable_sort(tensors.begin(), tensors.end(), [](const Tensor &a, const Tensor &b) {
        return size_of(a.second->dtype) > size_of(b.second->dtype);
    });
    // Beside its place first: what bears the name is whole.
    const std::string fresh = path + "." + std::to_string(getpid()) + ".part";
    const int descriptor = open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool done = descriptor >= 0;
    if (done) {
        const std::string header = header_of(tensors);
        done = write_all(descriptor, header.data(), header.size());
        for (const auto &tensor : tensors)
            done = done && write_all(descriptor, tensor.second->data,
                                     tensor.second->count() * size_of(tensor.second->dtype));
    }
    int why = done ? 0 : errno;
    if (descriptor >= 0 && close(descriptor) && !why) why = errno;
    if (!why && rename(fresh.c_str(), path.c_str())) why = errno;
    if (why) {
        if (descriptor >= 0) unlink(fresh.c_str());
        throw failed(shown(path), " cannot be written: ", std::strerror(why), "; make room there, or write "
                     "elsewhere");
    }
}

}  // namespace edgeprune
