// Text as a line of an error shows it: as Python's repr, so that both runtimes say the same, and never so that a
// terminal would carry it out.
//
// What differs from Python: code points that no version of Unicode has given a meaning yet count as printable, unless
// they lie in planes 4 to 13. Python's own answer changes with its release.
#pragma once

#include <cstdint>
#include <string>

namespace edgeprune {

// Whether bytes are UTF-8 as Python decodes it: shortest forms, no surrogates, nothing beyond U+10FFFF.
bool is_utf8(const std::string &bytes);

// The code point at `at`, which moves behind it. The text must be UTF-8.
std::uint32_t next_code_point(const std::string &text, std::size_t &at);
void add_utf8(std::string &text, std::uint32_t code_point);

// str.isprintable(): no controls, no formatting such as a turn of direction, no space but ' '.
bool is_printable(const std::string &text);

// repr(), or with `ascii` Python's ascii(), of UTF-8 text.
std::string repr(const std::string &text, bool ascii = false);

// The first `count` code points of UTF-8 text.
std::string first(const std::string &text, std::size_t count);

// Bytes in UTF-8: each one that is none becomes \xff, as Python's "backslashreplace" has it.
std::string escaped_utf8(const std::string &bytes);

// A path, whose bytes may be anything, in UTF-8 on one line: what is not UTF-8 or cannot be printed becomes \xff.
std::string shown(const std::string &path);

}  // namespace edgeprune
