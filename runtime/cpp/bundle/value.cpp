#include "bundle/value.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include <nlohmann/json.hpp>

#include "bundle/shown.hpp"

namespace edgeprune {

namespace {

// What nlohmann's parser calls: it builds a Value, and stops at what is refused.
class Builder {
  public:
    Value root;

    bool null() { return put({}); }
    bool boolean(bool truth) { return put({truth}); }
    bool number_integer(std::int64_t number) { return put({number}); }
    bool number_unsigned(std::uint64_t number) {
        return number <= INT64_MAX && put({static_cast<std::int64_t>(number)});
    }
    bool number_float(double number, const std::string &text) {
        const bool real = text.find_first_of(".eE") != std::string::npos;  // else it is whole, and too large
        return real && std::isfinite(number) && put({number});
    }
    bool string(std::string &text) { return put({std::move(text)}); }
    template <class Bytes>
    bool binary(Bytes &) { return false; }  // JSON has none
    bool start_object(std::size_t) { return open({Object()}); }
    bool start_array(std::size_t) { return open({Array()}); }
    bool key(std::string &name) {
        std::get<Object>(open_.back()->is).emplace_back(std::move(name), Value());
        return true;
    }
    bool end_object() {
        const auto &members = std::get<Object>(open_.back()->is);
        std::vector<std::string_view> names;
        names.reserve(members.size());
        for (const auto &member : members) names.emplace_back(member.first);
        std::sort(names.begin(), names.end());
        open_.pop_back();
        return std::adjacent_find(names.begin(), names.end()) == names.end();
    }
    bool end_array() {
        open_.pop_back();
        return true;
    }
    template <class Exception>
    bool parse_error(std::size_t, const std::string &, const Exception &) { return false; }

  private:
    std::vector<Value *> open_;  // those that are not closed; the last one alone grows

    Value *place() {
        if (open_.empty()) return &root;
        if (auto *items = std::get_if<Array>(&open_.back()->is)) return &items->emplace_back();
        return &std::get<Object>(open_.back()->is).back().second;
    }
    bool put(Value value) {
        *place() = std::move(value);
        return true;
    }
    bool open(Value value) {
        Value *at = place();
        *at = std::move(value);
        open_.push_back(at);
        return open_.size() <= DEEPEST;
    }
};

}  // namespace

const Value *Value::find(const std::string &name) const {
    if (const Object *members = object())
        for (const auto &[one, value] : *members)
            if (one == name) return &value;
    return nullptr;
}

std::optional<Value> parse(const std::string &text) {
    // nlohmann passes over a byte order mark, and takes a NUL for the end.
    if (text.compare(0, 3, "\xef\xbb\xbf") == 0 || text.find('\0') != std::string::npos) return std::nullopt;
    Builder builder;
    if (!nlohmann::json::sax_parse(text, &builder)) return std::nullopt;
    return std::move(builder.root);
}

int depth(const Value &value) {
    int deepest = 0;
    if (const Array *items = value.array()) {
        for (const Value &one : *items) deepest = std::max(deepest, depth(one));
    } else if (const Object *members = value.object()) {
        for (const auto &member : *members) deepest = std::max(deepest, depth(member.second));
    } else {
        return 0;
    }
    return deepest + 1;
}

}  // namespace edgeprune
