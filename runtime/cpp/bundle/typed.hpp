// JSON as the kinds that say what may stand in it, as edgeprune/typed.py reads it: fields that are not known are left
// out, values are taken as they are.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "bundle/value.hpp"

namespace edgeprune {

// What does not hold in a manifest; the reader of the file adds its name.
struct Wrong : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Field;

// What a value must be. Of `map` and `array`, `of` is what they hold; `count` of an array's elements, 0 for any.
struct Kind {
    enum Is { any, boolean, integer, text, integer_or_text, map, array, table } is;
    const Kind *of = nullptr;
    std::size_t count = 0;
    const Field *fields = nullptr;  // of a table
    std::size_t fields_count = 0;
    bool null = false;  // whether null will do, too
};

struct Field {
    const char *name;
    const Kind *kind;
    bool must = true;
};

template <std::size_t N>
constexpr Kind table(const Field (&fields)[N]) { return {Kind::table, nullptr, 0, fields, N}; }
constexpr Kind or_null(Kind kind) {
    kind.null = true;
    return kind;
}
constexpr Kind map_of(const Kind &kind) { return {Kind::map, &kind}; }
constexpr Kind array_of(const Kind &kind, std::size_t count = 0) { return {Kind::array, &kind, count}; }

// The value without fields that are not known, those of a table in the table's order. `where`: its path, for messages.
// Throws Wrong in one line that names the field, what must hold, and what was given.
Value read(const Kind &kind, const Value &given, const std::string &where);

}  // namespace edgeprune
