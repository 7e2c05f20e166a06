#include "bundle/shown.hpp"

#include <algorithm>
#include <cstdio>
#include <iterator>

namespace edgeprune {

namespace {

struct Range {
    std::uint32_t first, last;
};

// Unicode's categories Cc, Cf, Cs, Co, Zl, Zp and Zs but for ' ', noncharacters, and the planes that are empty.
constexpr Range HIDDEN[] = {
    {0x0, 0x1f}, {0x7f, 0xa0}, {0xad, 0xad}, {0x600, 0x605}, {0x61c, 0x61c}, {0x6dd, 0x6dd}, {0x70f, 0x70f},
    {0x890, 0x891}, {0x8e2, 0x8e2}, {0x1680, 0x1680}, {0x180e, 0x180e}, {0x2000, 0x200f}, {0x2028, 0x202f},
    {0x205f, 0x206f}, {0x3000, 0x3000}, {0xd800, 0xf8ff}, {0xfdd0, 0xfdef}, {0xfeff, 0xfeff}, {0xfff0, 0xfffb},
    {0xfffe, 0xffff}, {0x110bd, 0x110bd}, {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3},
    {0x1d173, 0x1d17a}, {0x1fffe, 0x1ffff}, {0x2fffe, 0x2ffff}, {0x3fffe, 0xe00ff}, {0xe01f0, 0x10ffff},
};

bool is_hidden(std::uint32_t code_point) {
    const auto *range = std::lower_bound(std::begin(HIDDEN), std::end(HIDDEN), code_point,
                                         [](const Range &one, std::uint32_t point) { return one.last < point; });
    return range != std::end(HIDDEN) && range->first <= code_point;
}

// How many bytes the code point that begins at `at` has, 0 where none does.
std::size_t length(const std::string &bytes, std::size_t at) {
    const auto byte = [&](std::size_t i) {
        return at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U;
    };
    const unsigned lead = byte(0), second = byte(1);
    const auto follows = [](unsigned one) { return (one & 0xc0U) == 0x80U; };
    if (lead < 0x80) return at < bytes.size() ? 1 : 0;
    if (lead >= 0xc2 && lead < 0xe0) return follows(second) ? 2 : 0;
    if (lead >= 0xe0 && lead < 0xf0) {
        const bool fits = (lead != 0xe0 || second >= 0xa0) && (lead != 0xed || second < 0xa0);
        return fits && follows(second) && follows(byte(2)) ? 3 : 0;
    }
    if (lead >= 0xf0 && lead < 0xf5) {
        const bool fits = (lead != 0xf0 || second >= 0x90) && (lead != 0xf4 || second < 0x90);
        return fits && follows(second) && follows(byte(2)) && follows(byte(3)) ? 4 : 0;
    }
    return 0;
}

template <std::size_t N>
std::string printed(const char (&format)[N], std::uint32_t value) {
    char text[16];
    std::snprintf(text, sizeof text, format, static_cast<unsigned>(value));
    return text;
}

std::string escaped(std::uint32_t point) {
    if (point == '\n') return "\\n";
    if (point == '\r') return "\\r";
    if (point == '\t') return "\\t";
    if (point < 0x100) return printed("\\x%02x", point);
    return point < 0x10000 ? printed("\\u%04x", point) : printed("\\U%08x", point);
}

}  // namespace

bool is_utf8(const std::string &bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
        const std::size_t count = length(bytes, at);
        if (!count) return false;
        at += count;
    }
    return true;
}

std::uint32_t next_code_point(const std::string &text, std::size_t &at) {
    const std::size_t count = std::max<std::size_t>(length(text, at), 1);
    std::uint32_t point = static_cast<unsigned char>(text[at]);
    if (count > 1) point &= 0x7fU >> count;
    for (std::size_t i = 1; i < count; ++i) point = point << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3fU);
    at += count;
    return point;
}

void add_utf8(std::string &text, std::uint32_t point) {
    const auto add = [&](std::uint32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (point < 0x80) return add(point);
    if (point < 0x800) {
        add(0xc0 | point >> 6);
    } else {
        if (point < 0x10000) {
            add(0xe0 | point >> 12);
        } else {
            add(0xf0 | point >> 18);
            add(0x80 | (point >> 12 & 0x3f));
        }
        add(0x80 | (point >> 6 & 0x3f));
    }
    add(0x80 | (point & 0x3f));
}

bool is_printable(const std::string &text) {
    for (std::size_t at = 0; at < text.size();)
        if (is_hidden(next_code_point(text, at))) return false;
    return true;
}

std::string repr(const std::string &text, bool ascii) {
    const bool twice = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
    const char quote = twice ? '"' : '\'';
    std::string out(1, quote);
    for (std::size_t at = 0; at < text.size();) {
        const std::uint32_t point = next_code_point(text, at);
        if (point == static_cast<unsigned char>(quote) || point == '\\') {
            out += '\\';
            out += static_cast<char>(point);
        } else if (is_hidden(point) || (ascii && point >= 0x80)) {
            out += escaped(point);
        } else {
            add_utf8(out, point);
        }
    }
    return out + quote;
}

std::string first(const std::string &text, std::size_t count) {
    std::size_t at = 0;
    while (at < text.size() && count--) next_code_point(text, at);
    return text.substr(0, at);
}

std::string escaped_utf8(const std::string &bytes) {
    std::string out;
    for (std::size_t at = 0, count; at < bytes.size(); at += count) {
        count = length(bytes, at);
        if (count) {
            out.append(bytes, at, count);
        } else {
            out += printed("\\x%02x", static_cast<unsigned char>(bytes[at]));
            count = 1;
        }
    }
    return out;
}

std::string shown(const std::string &path) {
    const std::string text = escaped_utf8(path);
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const std::uint32_t point = next_code_point(text, at);
        if (is_hidden(point)) out += escaped(point);
        else add_utf8(out, point);
    }
    return out;
}

}  // namespace edgeprune
