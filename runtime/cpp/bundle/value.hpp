// JSON as it stands in a file: names in their order, whole numbers apart from others. What Manifest.from_json of Python
// takes from its text, with the same refusals: a name twice, NaN and infinity, whole numbers beyond 64 bits, half of a
// surrogate pair ("\ud800").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace edgeprune {

struct Value;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;

struct Value {
    std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> is;

    bool null() const { return std::holds_alternative<std::monostate>(is); }
    const bool *truth() const { return std::get_if<bool>(&is); }
    const std::int64_t *whole() const { return std::get_if<std::int64_t>(&is); }
    const double *real() const { return std::get_if<double>(&is); }
    const std::string *text() const { return std::get_if<std::string>(&is); }
    const Array *array() const { return std::get_if<Array>(&is); }
    const Object *object() const { return std::get_if<Object>(&is); }

    // What an object has under a name; nullptr where it has none, and of what is no object.
    const Value *find(const std::string &name) const;
};

constexpr int DEEPEST = 1000;  // arrays and objects in each other, beyond which nothing is parsed

// UTF-8 text as JSON, or nothing where it is none or refused as the head of this file says.
std::optional<Value> parse(const std::string &text);

// How deeply arrays and objects stand in each other: 0 for a number.
int depth(const Value &value);

// Names sorted, no spaces, ASCII, numbers as Python prints them: what a digest is made of.
std::string canonical(const Value &value);

// repr() of a number, as short as it can be read back: "0.5", "1e-05", "1e+16".
std::string repr(double number);

// repr() of what json.loads would have made of it, or of the tuple that a field makes of an array; about as much of it
// as the first `count` code points need.
std::string repr(const Value &value, bool tuple, std::size_t count);

}  // namespace edgeprune
