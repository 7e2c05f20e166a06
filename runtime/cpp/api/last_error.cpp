#include "api/last_error.hpp"

#include <cstddef>
#include <cstring>

namespace edgeprune {
namespace {

constexpr std::size_t CAPACITY = 1024, TAIL = 480, HANDLES = 8;

struct Kept {
    std::uint64_t handle;
    std::uint64_t when;  // 0: nothing is kept here
    char text[CAPACITY];
};
thread_local Kept kept[HANDLES];
thread_local std::uint64_t clock_;

bool follows(unsigned char byte) { return (byte & 0xc0U) == 0x80U; }

// How many bytes of UTF-8 begin here; 0 where it is none.
std::size_t length_at(const unsigned char *text) {
    const unsigned first = text[0], second = text[1];
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4 || !follows(text[1])) return 0;
    if (first < 0xe0) return 2;
    if (!follows(text[2])) return 0;
    if (first < 0xf0) return (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ? 0 : 3;
    if (!follows(text[3]) || (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;
    return 4;
}

bool control(const unsigned char *text, std::size_t length) {
    return length == 1 ? text[0] < 0x20 || text[0] == 0x7f : length == 2 && text[0] == 0xc2 && text[1] < 0xa0;
}

// Copies until the text or the room ends, never half of a code point; ends what it wrote. Returns where it stopped.
const char *copy(const char *text, char *to, std::size_t room) {
    while (*text) {
        const auto *bytes = reinterpret_cast<const unsigned char *>(text);
        const std::size_t length = length_at(bytes), taken = length ? length : 1;
        const bool plain = length && !control(bytes, length);
        const std::size_t written = plain ? length : 1;
        if (written >= room) break;
        if (plain) std::memcpy(to, text, length);
        else *to = length ? ' ' : '?';
        to += written;
        room -= written;
        text += taken;
    }
    *to = '\0';
    return text;
}

}  // namespace

void keep_error(std::uint64_t handle, const char *text) noexcept {
    Kept *place = kept;
    for (Kept &one : kept) {
        if (one.when && one.handle == handle) {
            place = &one;
            break;
        }
        if (one.when < place->when) place = &one;
    }
    place->handle = handle;
    place->when = ++clock_;
    const std::size_t size = std::strlen(text);
    if (size < CAPACITY) {
        copy(text, place->text, CAPACITY);
        return;
    }
    copy(text, place->text, CAPACITY - TAIL - 3);  // what was asked for, and the remedy, which stands at the end
    std::strcat(place->text, "...");
    const char *tail = text + size - TAIL + 1;
    while (follows(static_cast<unsigned char>(*tail))) ++tail;
    copy(tail, place->text + std::strlen(place->text), TAIL);
}

const char *last_error(std::uint64_t handle) noexcept {
    for (const Kept &one : kept)
        if (one.when && one.handle == handle) return one.text;
    return "";
}

}  // namespace edgeprune
