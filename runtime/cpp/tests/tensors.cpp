// Safetensors files: what is written is read again, and hostile headers are refused.
#include <cstring>
#include <vector>

#include "bundle/safetensors.hpp"
#include "check.hpp"
#include "made.hpp"

namespace {

using namespace edgeprune;
using check::refusal;

std::string file_of(const std::string &header, std::size_t nbytes) {
    std::string length;
    for (unsigned byte = 0; byte < 8; ++byte) length += static_cast<char>(header.size() >> (8 * byte) & 0xffU);
    return length + header + std::string(nbytes, '\1');
}

std::string entry(const std::string &dtype, const std::string &shape, const std::string &offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

void what_is_written_is_read() {
    const made::Folder folder;
    const float values[] = {1.5F, -0.0F, 3e38F};
    const std::uint8_t bytes[] = {1, 2, 3, 4, 5};
    const std::int64_t whole[] = {-1};
    const std::string path = (folder / "x.safetensors").string();
    write_safetensors(path, {{"b", {EDGEPRUNE_UINT8, {5}, bytes}},
                             {"é", {EDGEPRUNE_FLOAT32, {1, 3}, values}},
                             {"none", {EDGEPRUNE_FLOAT16, {0, 4}, nullptr}},
                             {"w", {EDGEPRUNE_INT64, {}, whole}}});
    const Mapped file(path);
    const auto read = read_safetensors(file, "x");
    check::same(read.size(), std::size_t{4});
    check::holds(read.at("é").shape == std::vector<std::int64_t>{1, 3});
    check::same(std::memcmp(read.at("é").data, values, sizeof values), 0);
    check::same(std::memcmp(read.at("b").data, bytes, sizeof bytes), 0);
    check::same(*read.at("w").as<std::int64_t>(), -1);
    check::same(read.at("none").count(), std::size_t{0});
    const std::string nowhere = (folder / "none/x").string();
    check::holds(refusal([&] { write_safetensors(nowhere, {}); }).find(nowhere + " cannot be written: ") == 0);
    check::same(std::distance(made::fs::directory_iterator(folder.text()), {}), 1);  // nothing half-written beside it
}

void hostile_headers_are_refused() {
    const auto said = [](const std::string &content) {
        const std::vector<unsigned char> bytes(content.begin(), content.end());
        const std::string line = refusal([&] { read_safetensors({bytes.data(), bytes.size()}, "x"); });
        check::holds(line.empty() || line.find("x is no safetensors file: ") == 0);
        return line.substr(0, line.rfind(';')).substr(line.empty() ? 0 : 26);
    };
    const auto two = [&](const std::string &a, const std::string &b, std::size_t nbytes) {
        std::string header = "{\"a\":" + a + ",\"b\":" + b + "}";
        header.append((8 - header.size() % 8) % 8, ' ');
        return said(file_of(header, nbytes));
    };
    const std::string good = entry("F32", "[2]", "[0,8]");
    check::same(two(good, entry("U8", "[3]", "[8,11]"), 11), "");
    check::same(two(entry("U8", "[3]", "[8,11]"), good, 11), "");
    check::same(two(good, entry("U8", "[3]", "[7,10]"), 11), "tensor 'b' overlaps another");
    check::same(two(good, entry("U8", "[3]", "[9,12]"), 12), "tensor 'b' lies behind a gap");
    check::same(two(good, entry("U8", "[3]", "[8,11]"), 12), "there are bytes behind its last tensor");
    check::same(two(good, entry("U8", "[3]", "[8,11]"), 10), "tensor 'b' is cut off");
    const std::string other = "tensor 'b' has 3 bytes by its shape, and other data_offsets";
    check::same(two(good, entry("U8", "[3]", "[8,12]"), 12), other);
    check::same(two(good, entry("U8", "[3]", "[11,8]"), 11), other);
    const std::string large = "[4611686018427387904]";
    check::same(two(good, entry("I64", large, "[8,8]"), 8), "tensor 'b' is larger than memory can be");
    check::same(two(good, entry("U8", "[-1]", "[8,7]"), 8), "tensor 'b': a dimension must be a whole number, got -1");
    check::same(two(good, entry("U8", "[1.0]", "[8,9]"), 9), "tensor 'b': a dimension must be a whole number, got 1.0");
    check::same(two(good, entry("F64", "[1]", "[8,16]"), 16),
                "tensor 'b' must have a dtype of F32, F16, U8, I8, I32, I64, BOOL, got 'F64'");
    check::same(two(entry("U8", "[1]", "[0,1]"), entry("F32", "[1]", "[1,5]"), 5), "tensor 'b' is not aligned");
    check::same(two(good, "3", 8), "tensor 'b' must have a dtype of F32, F16, U8, I8, I32, I64, BOOL, got none");
    check::same(said(""), "it is too short for a header");
    check::same(said(file_of("{}", 0)), "");
    check::same(said(std::string(8, '\xff')), "its header is longer than 100 MB");
    check::same(said("\x08" + std::string(7, '\0')), "its header is cut off");
    for (const char *header : {"", "[]", " {}", "{", "{\"a\":1,\"a\":1}", "{\"a\":\"\xff\"}", "{} x"})
        check::same(said(file_of(header, 0)), "its header is no JSON object with each name once");
    check::same(said(file_of("{\"__metadata__\":{\"a\":1}}", 0)), "__metadata__ must be names with texts");
}

}  // namespace

int main() {
    what_is_written_is_read();
    hostile_headers_are_refused();
    return check::done();
}
