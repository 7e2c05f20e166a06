// 8 bytes, little endian: N; N bytes of JSON; then the tensors one behind the other, in the order of their offsets.
//
//     {"__metadata__": {"any": "text"}, "tokens": {"dtype": "F32", "shape": [1, 36, 64], "data_offsets": [0, 9216]}}
//
// Refused is what the package of Hugging Face refuses, and what it lets pass, but never writes: a name twice, space
// before the header, numbers of 64 bits, tensors that do not begin at a multiple of their element's size. And dtypes
// that no bundle has.
#include "bundle/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "bundle/shown.hpp"
#include "bundle/typed.hpp"
#include "bundle/value.hpp"
#include "error.hpp"

namespace edgeprune {

namespace {

constexpr std::uint64_t HEADER_NBYTES = 100'000'000;  // the package's own limit
constexpr const char *METADATA = "__metadata__";

struct Name {
    const char *text;
    DType dtype;
};

constexpr Name NAMES[] = {
    {"F32", EDGEPRUNE_FLOAT32}, {"F16", EDGEPRUNE_FLOAT16}, {"U8", EDGEPRUNE_UINT8}, {"I8", EDGEPRUNE_INT8},
    {"I32", EDGEPRUNE_INT32},   {"I64", EDGEPRUNE_INT64},   {"BOOL", EDGEPRUNE_BOOL},
};

struct Placed {
    std::uint64_t begin, end;
    std::string name;
    View view;
};

std::uint64_t count_of(const Value &value, const std::string &what) {
    const std::int64_t *number = value.whole();
    if (!number || *number < 0) throw Wrong(what + " must be a whole number, got " + repr(value, false, 60));
    return static_cast<std::uint64_t>(*number);
}

const Array &array_at(const Value &entry, const char *field, const std::string &what) {
    const Value *value = entry.find(field);
    if (!value || !value->array()) throw Wrong(what + " has no " + field);
    return *value->array();
}

Placed placed(const std::string &name, const Value &entry) {
    const std::string what = "tensor " + first(repr(name), 60);
    Placed one{0, 0, name, {}};
    const Value *dtype = entry.find("dtype");
    const auto *known = std::find_if(std::begin(NAMES), std::end(NAMES), [&](const Name &each) {
        return dtype && dtype->text() && *dtype->text() == each.text;
    });
    if (known == std::end(NAMES))
        throw Wrong(what + " must have a dtype of F32, F16, U8, I8, I32, I64, BOOL, got " +
                    (dtype ? repr(*dtype, false, 60) : "none"));
    one.view.dtype = known->dtype;
    std::uint64_t nbytes = size_of(known->dtype);
    for (const Value &size : array_at(entry, "shape", what)) {
        const std::uint64_t count = count_of(size, what + ": a dimension");
        if (__builtin_mul_overflow(nbytes, count, &nbytes)) throw Wrong(what + " is larger than memory can be");
        one.view.shape.push_back(static_cast<std::int64_t>(count));
    }
    const Array &offsets = array_at(entry, "data_offsets", what);
    if (offsets.size() != 2) throw Wrong(what + " must have two data_offsets");
    one.begin = count_of(offsets[0], what + ": data_offsets");
    one.end = count_of(offsets[1], what + ": data_offsets");
    if (one.end < one.begin || one.end - one.begin != nbytes)
        throw Wrong(what + " has " + std::to_string(nbytes) + " bytes by its shape, and other data_offsets");
    return one;
}

void check_metadata(const Value &value) {
    if (value.null()) return;
    const Object *texts = value.object();
    if (!texts || std::any_of(texts->begin(), texts->end(), [](const auto &one) { return !one.second.text(); }))
        throw Wrong(std::string(METADATA) + " must be names with texts");
}

std::vector<Placed> tensors_of(Bytes file) {
    if (file.size < 8) throw Wrong("it is too short for a header");
    std::uint64_t header_nbytes = 0;
    for (unsigned at = 0; at < 8; ++at) header_nbytes |= std::uint64_t{file.data[at]} << (8 * at);
    if (header_nbytes > HEADER_NBYTES) throw Wrong("its header is longer than 100 MB");
    if (header_nbytes > file.size - 8) throw Wrong("its header is cut off");
    const std::string header(reinterpret_cast<const char *>(file.data) + 8, static_cast<std::size_t>(header_nbytes));
    const std::optional<Value> given = header.compare(0, 1, "{") == 0 && is_utf8(header) ? parse(header) : std::nullopt;
    if (!given) throw Wrong("its header is no JSON object with each name once");
    std::vector<Placed> tensors;
    for (const auto &[name, entry] : *given->object()) {
        if (name == METADATA) check_metadata(entry);
        else tensors.push_back(placed(name, entry));
    }
    std::sort(tensors.begin(), tensors.end(), [](const Placed &a, const Placed &b) {
        return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    const unsigned char *data = file.data + 8 + header_nbytes;
    std::uint64_t at = 0;
    for (Placed &one : tensors) {
        const std::string what = "tensor " + first(repr(one.name), 60);
        if (one.begin != at) throw Wrong(what + (one.begin < at ? " overlaps another" : " lies behind a gap"));
        if (one.end > file.size - 8 - header_nbytes) throw Wrong(what + " is cut off");
        const bool empty = one.begin == one.end;
        if (!empty && (8 + header_nbytes + one.begin) % size_of(one.view.dtype)) throw Wrong(what + " is not aligned");
        one.view.data = data + one.begin;
        at = one.end;
    }
    if (at != file.size - 8 - header_nbytes) throw Wrong("there are bytes behind its last tensor");
    return tensors;
}

}  // namespace

std::map<std::string, View> read_safetensors(Bytes file, const std::string &name) {
    try {
        std::map<std::string, View> views;
        for (Placed &one : tensors_of(file)) views.emplace(std::move(one.name), std::move(one.view));
        return views;
    } catch (const Wrong &wrong) {
        throw bad_bundle(shown(name), " is no safetensors file: ", wrong.what(), "; write it again");
    }
}

}  // namespace edgeprune
