#include "bundle/onnx_data.hpp"

#include <cstdint>
#include <utility>
#include <vector>

#include "bundle/shown.hpp"
#include "bundle/typed.hpp"

namespace edgeprune {

namespace {

enum class Message { none, model, graph, function, node, attribute, sparse, tensor, entry };

struct Inside {
    Message in;
    std::uint32_t number;
    Message message;
};

// message -> field number -> the message that stands there, as far as the way to external data goes
constexpr Inside INSIDE[] = {
    {Message::model, 7, Message::graph},       {Message::model, 25, Message::function},
    {Message::graph, 1, Message::node},        {Message::graph, 5, Message::tensor},
    {Message::graph, 15, Message::sparse},     {Message::function, 7, Message::node},
    {Message::function, 11, Message::attribute}, {Message::node, 5, Message::attribute},
    {Message::attribute, 5, Message::tensor},  {Message::attribute, 6, Message::graph},
    {Message::attribute, 10, Message::tensor}, {Message::attribute, 11, Message::graph},
    {Message::attribute, 22, Message::sparse}, {Message::attribute, 23, Message::sparse},
    {Message::sparse, 1, Message::tensor},     {Message::sparse, 2, Message::tensor},
    {Message::tensor, 13, Message::entry},
};

Message inside(Message message, std::uint32_t number) {
    for (const Inside &one : INSIDE)
        if (one.in == message && one.number == number) return one.message;
    return Message::none;
}

struct Span {
    std::size_t begin, end;
};

struct Part {
    std::uint32_t number;
    Span content;
};

std::string at_byte(std::size_t at) { return " at byte " + std::to_string(at); }

// Reads the fields of one message, front to back.
class Fields {
  public:
    Fields(Bytes file, Span span) : data_(file.data), at_(span.begin), end_(span.end) {}

    // The next field that has bytes for content; false at the end. Throws Wrong.
    bool next(Part &part) {
        while (at_ < end_) {
            const std::uint64_t tag = varint();
            const unsigned kind = tag & 7U;
            if (kind == 0) {
                varint();
                continue;
            }
            std::uint64_t size = 0;
            beyond_ = false;
            if (kind == 2) size = varint();
            else if (kind == 1 || kind == 5) size = kind == 1 ? 8 : 4;
            else throw Wrong("a field of wire type " + std::to_string(kind) + at_byte(at_));
            if (beyond_ || size > end_ - at_) throw Wrong("a field that is cut off" + at_byte(at_));
            const std::size_t begin = at_;
            at_ += static_cast<std::size_t>(size);
            if (kind != 2) continue;
            part = {static_cast<std::uint32_t>(tag) >> 3, {begin, at_}};  // a tag has 32 bits
            return true;
        }
        return false;
    }

  private:
    const unsigned char *data_;
    std::size_t at_, end_;
    bool beyond_ = false;  // whether the last number had more than 64 bits

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 70; shift += 7) {
            if (at_ >= end_) throw Wrong("a number that is cut off" + at_byte(at_));
            const std::uint64_t byte = data_[at_++];
            const std::uint64_t bits = byte & 0x7fU;
            value |= bits << shift;
            beyond_ = beyond_ || (shift == 63 && bits > 1);  // ten bytes have 70 bits
            if (byte < 0x80) return value;
        }
        throw Wrong("a number that does not end" + at_byte(at_));
    }
};

}  // namespace

std::set<std::string> external_files(Bytes graph) {
    if (!graph.size) throw Wrong("it is empty");
    std::set<std::string> locations;
    std::vector<std::pair<Message, Span>> waiting{{Message::model, {0, graph.size}}};
    const auto bytes = [&](Span span) {
        return std::string(reinterpret_cast<const char *>(graph.data) + span.begin, span.end - span.begin);
    };
    while (!waiting.empty()) {  // no recursion: a file may be nested as deeply as it likes
        const auto [message, span] = waiting.back();
        waiting.pop_back();
        Fields fields(graph, span);
        for (Part part{}; fields.next(part);) {
            const Message kind = inside(message, part.number);
            if (kind == Message::entry) {
                std::string key, value;
                Fields entry(graph, part.content);
                for (Part one{}; entry.next(one);) {
                    if (one.number == 1) key = bytes(one.content);
                    else if (one.number == 2) value = bytes(one.content);
                }
                if (key == "location") locations.insert(escaped_utf8(value));
            } else if (kind != Message::none) {
                waiting.emplace_back(kind, part.content);
            }
        }
    }
    return locations;
}

}  // namespace edgeprune
